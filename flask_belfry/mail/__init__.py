"""Mail: a ledger in which every mail exists once, its rendering, and its way to the SMTP server.

This face is all that other slices use: `send_mail` and `send_mails` to ask, `@mail_kind` to declare, `absolute_url`
for the links in it.
"""

from __future__ import annotations

from flask import Flask

from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject
from flask_belfry.mail import emails, jobs, rendering, transport
from flask_belfry.mail.delivery import deliver
from flask_belfry.mail.direct import send_directly
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
from flask_belfry.mail.links import absolute_url
from flask_belfry.mail.models import EmailMessage, MailEntry, MailState
from flask_belfry.mail.opt_outs import opt_out_lookup
from flask_belfry.mail.pruning import erase_mails, forget_readers, prune_mails
from flask_belfry.mail.queries import counts_by_state, find_mails, get_mail, mails_of_job
from flask_belfry.mail.recipients import check_address
from flask_belfry.mail.registry import mail_kind, optional_kinds
from flask_belfry.mail.services import MailRequest, may_resend, resend, send_mail, send_mails
from flask_belfry.mail.transport import close_connections, smtp_settings

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
    "jobs",
    "mail_kind",
    "mails_of_job",
    "may_resend",
    "opt_out_lookup",
    "optional_kinds",
    "prune_mails",
    "resend",
    "send_directly",
    "send_mail",
    "send_mails",
    "send_notice",
]


def init_app(app: Flask) -> None:
    """Read the mail settings of `app` and add the commands; connect to nothing.

    `flask_belfry.mail.web` adds the pages.
    """
    transport.mail.init_app(app)
    rendering.init_app(app)
    register_subject(app, "mail", "mail.detail", "mail_id")
    add_lazy_command(app, "mail", "flask_belfry.mail.cli:mail")


def check_connection() -> str:
    """Connects to the SMTP server, logs in, and gives back its answer. Raises ServerUnreachableError."""
    settings = smtp_settings()
    if settings.inbox is not None:
        settings.inbox.wait_seconds = 0.0  # the caller asks whether it runs now
    with transport.Connection(settings) as connection:
        return connection.check()
