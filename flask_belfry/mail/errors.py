"""The errors of mail, sorted by the one question the retry policy asks: may it pass by itself?"""

from __future__ import annotations

import re

from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError, NotFoundError

_ADDRESS = re.compile(r"[^\s<>()\[\]:;,\"]+@[^\s<>()\[\]:;,\"]+")


class MailError(AppError):
    """A mail did not leave.

    The message is fit for logs: addresses in it are hidden. `detail` is the full text, for the ledger only.

    Args:
        detail: what happened, with the server's own words.
        code: the server's answer code, when it gave one.
    """

    status = 502

    def __init__(self, detail: str, code: int | None = None) -> None:
        super().__init__(without_addresses(detail))
        self.detail = detail
        self.code = code

    @property
    def for_operators(self) -> str:
        """With the addresses: whoever asks on the command line may see them."""
        return self.detail


class TemporaryMailError(MailError):
    """It may pass: a timeout, a broken connection, a 4xx answer, TLS or the login failing."""


class ServerUnreachableError(TemporaryMailError):
    """No connection ready for mail could be made: the next mail would fare the same."""


class SessionRefusedError(ServerUnreachableError):
    """The server accepts no mail in this session: it refused the sender for now, before anything else was said."""


class ServerBusyError(ServerUnreachableError):
    """Other connections of this process work, and the server admits no more of them."""


class ServerTimeoutError(TemporaryMailError):
    """The server said nothing for MAIL_TIMEOUT_SECONDS in the middle of a mail."""


class PermanentMailError(MailError):
    """It will not pass: a 5xx answer for this mail, or a mail that cannot be made."""


class UncertainMailError(MailError):
    """The connection broke after the whole mail was handed over and before the answer: it may have left or not."""


class MailTemplateError(PermanentMailError):
    """A mail's templates or its context are wrong."""

    status = 500


class UnknownMailError(PermanentMailError):
    """No mail is registered under this name."""

    status = 500

    def __init__(self, kind: str) -> None:
        super().__init__(f"no mail is named {kind!r}: `flask mail preview` lists those there are")


class MailNotFoundError(NotFoundError):
    """The ledger has no such mail."""

    def __init__(self) -> None:
        super().__init__("there is no such mail")


class MailArgumentError(InvalidInputError):
    """What a mail is asked for with is invalid: its context, subject or change."""


class MailKeyError(MailArgumentError):
    """A mail's unique key is empty or too long, or no text that every database takes."""


class MailStateError(ConflictError):
    """The mail's present state does not admit sending it again."""


def without_addresses(text: str) -> str:
    """`text` with every mail address hidden: servers like to repeat the recipient, and logs are not the place."""
    return _ADDRESS.sub("…@…", text)


def without_mailbox(text: str, mailbox: str) -> str:
    """`text` with every mail address hidden, and with what stands before the @ of one, where it stands alone."""
    alone = re.compile(rf"(?<!\w){re.escape(mailbox)}(?!\w)", re.IGNORECASE)
    return alone.sub("…", without_addresses(text)) if mailbox else without_addresses(text)
