"""The fields of mails, suppressions and holds as JSON values, for commands and the API."""

from __future__ import annotations

from typing import Any

from flask_belfry.changes.host import current_host
from flask_belfry.mail.models import EmailMessage, EmailSuppression, MailDomainHold


def mail_fields(mail: EmailMessage) -> dict[str, Any]:
    """Return the fields of a mail, without what it says."""
    return {
        "id": mail.id,
        "kind": mail.kind,
        "recipients": mail.recipients,
        "state": mail.state.value,
        "subject": f"{mail.subject_type}/{mail.subject_id}" if mail.subject_type else None,
        "reply": mail.reply,
        "last_error": mail.last_error,
        "attempts": mail.attempts,
        "uncertain_count": mail.uncertain_count,
        "job_id": mail.job_id,
        "created_at": mail.created_at.isoformat(),
        "sent_at": mail.sent_at and mail.sent_at.isoformat(),
        "bounced_at": mail.bounced_at and mail.bounced_at.isoformat(),
    }


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
