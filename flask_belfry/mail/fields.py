"""The fields of suppressions and holds as JSON values: those of the commands' `--json` and of the API."""

from __future__ import annotations

from typing import Any

from flask_belfry.changes.host import current_host
from flask_belfry.mail.models import EmailSuppression, MailDomainHold


def suppression_fields(suppression: EmailSuppression) -> dict[str, Any]:
    """Return the fields of a suppression."""
    return {
        "id": suppression.id,
        "email": suppression.email,
        "status_code": suppression.status_code,
        "reason": suppression.reason,
        "source": suppression.source.value,
        "created_at": suppression.created_at.isoformat(),
        "mail_id": suppression.email_id,
        "created_by": current_host().user_name(suppression.user_id),
    }


def hold_fields(hold: MailDomainHold) -> dict[str, Any]:
    """Return the fields of the hold of a domain."""
    return {
        "domain": hold.domain,
        "refusals": hold.refusals,
        "probes": hold.probes,
        "last_reply": hold.last_reply,
        "held_since": hold.held_since and hold.held_since.isoformat(),
        "held_until": hold.held_until and hold.held_until.isoformat(),
    }
