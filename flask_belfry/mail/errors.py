"""The errors of mail, classified for the retry policy: temporary, permanent or uncertain."""

from __future__ import annotations

import re

from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError, NotFoundError

_EMAIL = re.compile(r"[^\s<>()\[\]:;,\"]+@[^\s<>()\[\]:;,\"]+")


class MailError(AppError):
    """A mail was not sent.

    The message is safe for logs: email addresses in it are masked. `detail` is the full text, for the ledger only.

    Args:
        detail: the reason, with the server's reply.
        code: the server's reply code, if there is one.
        status_code: the reply's enhanced status code, if there is one.
    """

    status = 502

    def __init__(self, detail: str, code: int | None = None, status_code: str | None = None) -> None:
        super().__init__(without_emails(detail))
        self.detail = detail
        self.code = code
        self.status_code = status_code

    @property
    def for_operators(self) -> str:
        """The full text: operators may see the email addresses."""
        return self.detail


class TemporaryMailError(MailError):
    """A temporary error: a timeout, a broken connection, a 4xx reply, a failure of TLS or of the login."""


class ServerUnreachableError(TemporaryMailError):
    """No connection is available; other mails would fail too."""


class SessionRefusedError(ServerUnreachableError):
    """The server accepts no mail in this session: it refused the sender, with a temporary code."""


class ServerBusyError(ServerUnreachableError):
    """The server admits no more connections than those of this process that are in use."""


class ServerTimeoutError(TemporaryMailError):
    """The server did not reply within MAIL_TIMEOUT_SECONDS while a mail was sent."""


class SenderRefusedError(TemporaryMailError):
    """The server refuses us, with 4.7.x or 5.7.x, and not this recipient: it may accept the mail later."""


class PermanentMailError(MailError):
    """A permanent error: a 5xx reply for this mail, or a mail that cannot be rendered."""


class AddressRefusedError(PermanentMailError):
    """The server knows no such mailbox, or it is disabled: the email address is suppressed."""


class UncertainMailError(MailError):
    """The connection broke between the end of the mail and the server's reply: the mail may have been sent."""


class MailTemplateError(PermanentMailError):
    """A template of a mail is invalid, or its context does not fit it."""

    status = 500


class UnknownMailError(PermanentMailError):
    """There is no kind of mail with this name."""

    status = 500

    def __init__(self, kind: str) -> None:
        super().__init__(f"there is no mail named {kind!r}: list them with `flask mail preview`")


class MailNotFoundError(NotFoundError):
    """The ledger has no mail with this id."""

    def __init__(self) -> None:
        super().__init__("there is no mail with this id")


class MailArgumentError(InvalidInputError):
    """An argument of a mail is invalid: its context, subject or change."""


class MailKeyError(MailArgumentError):
    """The key of a mail is empty, too long, or contains characters that a database cannot store."""


class MailStateError(ConflictError):
    """The state of the mail does not allow that it is sent again, or confirmed as sent."""


def without_emails(text: str) -> str:
    """Return `text` with every email address masked: servers quote recipients, which logs must not contain."""
    return _EMAIL.sub("…@…", text)


def without_mailbox(text: str, mailbox: str) -> str:
    """Return `text` with every email address masked, and also the local part `mailbox` where it appears alone."""
    alone = re.compile(rf"(?<!\w){re.escape(mailbox)}(?!\w)", re.IGNORECASE)
    return alone.sub("…", without_emails(text)) if mailbox else without_emails(text)
