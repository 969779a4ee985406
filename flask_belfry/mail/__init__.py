"""Mail: a ledger that contains every mail once, rendering, SMTP, the pages of the ledger and the development inbox.

An application declares its mails with `@mail_kind` and enqueues them with `send_mail` and `send_mails`.
"""

from __future__ import annotations

from flask import Flask

from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject
from flask_belfry.mail import emails, jobs, rendering, transport
from flask_belfry.mail.delivery import deliver
from flask_belfry.mail.domain_holds import held_domains
from flask_belfry.mail.emails import send_notice
from flask_belfry.mail.errors import (
    MailArgumentError,
    MailError,
    MailKeyError,
    MailNotFoundError,
    MailStateError,
    MailTemplateError,
    PermanentMailError,
    ServerUnreachableError,
    TemporaryMailError,
    UncertainMailError,
    UnknownMailError,
)
from flask_belfry.mail.inline import send_inline
from flask_belfry.mail.models import (
    EmailMessage,
    EmailSuppression,
    MailDomainHold,
    MailEntry,
    MailState,
    MailStatistics,
    MailTotals,
    SuppressionSource,
)
from flask_belfry.mail.previews import preview
from flask_belfry.mail.pruning import erase_finalized_mails, erase_mails, prune_mails
from flask_belfry.mail.queries import counts_by_state, find_mails, get_mail, mails_of_job
from flask_belfry.mail.recipients import check_email, parse_email
from flask_belfry.mail.registry import (
    MailOutcome,
    Skip,
    kinds,
    mail_kind,
    opt_out_lookup,
    optional_kinds,
    unsubscribe_lookup,
)
from flask_belfry.mail.sender_dns import check_dkim, check_dmarc, check_spf
from flask_belfry.mail.services import MailRequest, confirm_sent, resend, retry_mails, send_mail, send_mails
from flask_belfry.mail.statistics import MailFigures, mail_figures, mail_series
from flask_belfry.mail.suppressions import forget_suppression, suppress, suppressed_among
from flask_belfry.mail.transport import close_connections, smtp_settings

__all__ = [
    "EmailMessage",
    "EmailSuppression",
    "MailArgumentError",
    "MailDomainHold",
    "MailEntry",
    "MailError",
    "MailFigures",
    "MailKeyError",
    "MailNotFoundError",
    "MailOutcome",
    "MailRequest",
    "MailState",
    "MailStateError",
    "MailStatistics",
    "MailTemplateError",
    "MailTotals",
    "PermanentMailError",
    "ServerUnreachableError",
    "Skip",
    "SuppressionSource",
    "TemporaryMailError",
    "UncertainMailError",
    "UnknownMailError",
    "check_connection",
    "check_dkim",
    "check_dmarc",
    "check_email",
    "check_spf",
    "close_connections",
    "confirm_sent",
    "counts_by_state",
    "deliver",
    "emails",
    "erase_finalized_mails",
    "erase_mails",
    "find_mails",
    "forget_suppression",
    "get_mail",
    "held_domains",
    "init_app",
    "jobs",
    "kinds",
    "mail_figures",
    "mail_kind",
    "mail_series",
    "mails_of_job",
    "opt_out_lookup",
    "optional_kinds",
    "parse_email",
    "preview",
    "prune_mails",
    "resend",
    "retry_mails",
    "send_inline",
    "send_mail",
    "send_mails",
    "send_notice",
    "suppress",
    "suppressed_among",
    "unsubscribe_lookup",
]


def init_app(app: Flask) -> None:
    """Read the mail settings of `app` and register the commands, without connecting.

    `flask_belfry.mail.web` registers the pages.
    """
    transport.mail.init_app(app)
    rendering.init_app(app)
    register_subject(app, "mail", "mail.detail", "mail_id")
    add_lazy_command(app, "mail", "flask_belfry.mail.cli:commands")


def check_connection() -> str:
    """Connect to the SMTP server, log in, and return its reply. Raises ServerUnreachableError."""
    settings = smtp_settings()
    settings.inbox_wait_seconds = 0.0
    with transport.Connection(settings) as connection:
        return connection.check()
