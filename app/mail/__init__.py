"""Mail: a ledger in which every mail exists once, its rendering, and its way to the SMTP server.

This face is all that other slices use: `send_mail` and `send_mails` to ask, `@mail_kind` to declare, `page_url` for the
links in it.
"""

from __future__ import annotations

from flask import Flask

from app.mail import emails, rendering, transport, views
from app.mail.cli import mail as commands
from app.mail.delivery import deliver
from app.mail.direct import send_directly
from app.mail.emails import send_notice
from app.mail.errors import (
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
from app.mail.links import absolute_url, page_url
from app.mail.models import EmailMessage, MailEntry, MailState
from app.mail.pruning import erase_mails, forget_readers, prune_mails
from app.mail.queries import counts_by_state, find_mails, get_mail, mails_of_job
from app.mail.recipients import check_address
from app.mail.registry import mail_kind, optional_kinds
from app.mail.services import MailRequest, may_resend, resend, send_mail, send_mails
from app.mail.transport import close_connections, smtp_settings
from app.mail.wishes import asks_readers

__all__ = [
    "EmailMessage",
    "MailArgumentError",
    "MailEntry",
    "MailError",
    "MailKeyError",
    "MailNotFoundError",
    "MailRequest",
    "MailState",
    "MailStateError",
    "MailTemplateError",
    "PermanentMailError",
    "ServerUnreachableError",
    "TemporaryMailError",
    "UncertainMailError",
    "UnknownMailError",
    "absolute_url",
    "asks_readers",
    "check_address",
    "check_connection",
    "close_connections",
    "counts_by_state",
    "deliver",
    "emails",
    "erase_mails",
    "find_mails",
    "forget_readers",
    "get_mail",
    "init_app",
    "mail_kind",
    "mails_of_job",
    "may_resend",
    "optional_kinds",
    "page_url",
    "prune_mails",
    "resend",
    "send_directly",
    "send_mail",
    "send_mails",
    "send_notice",
]


def init_app(app: Flask) -> None:
    """Reads the mail settings of `app` and adds the commands; connects to nothing."""
    transport.mail.init_app(app)
    rendering.init_app(app)
    views.init_app(app)
    app.cli.add_command(commands)


def check_connection() -> str:
    """Connects to the SMTP server, logs in, and gives back its answer. Raises ServerUnreachableError."""
    settings = smtp_settings()
    if settings.inbox is not None:
        settings.inbox.wait_seconds = 0.0  # the caller asks whether it runs now
    with transport.Connection(settings) as connection:
        return connection.check()
