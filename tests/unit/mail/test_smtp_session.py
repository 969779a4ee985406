"""Which answer of a server may pass by itself: a table."""

from __future__ import annotations

import pytest

from flask_belfry.mail.errors import MailError, PermanentMailError, TemporaryMailError, without_emails
from flask_belfry.mail.smtp_session import refusal_error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (421, TemporaryMailError),  # closing
        (450, TemporaryMailError),  # mailbox busy
        (451, TemporaryMailError),
        (452, TemporaryMailError),  # storage
        (-1, TemporaryMailError),  # no SMTP at all
        (220, TemporaryMailError),  # an answer to another question
        (354, TemporaryMailError),
        (500, PermanentMailError),
        (530, TemporaryMailError),  # log in first: about us, not about the mail
        (535, TemporaryMailError),
        (550, PermanentMailError),
        (552, PermanentMailError),
        (554, PermanentMailError),
    ],
)
def test_an_answer_is_temporary_or_permanent(code: int, expected: type[MailError]) -> None:
    error = refusal_error("the mail", code, b"because")
    assert type(error) is expected
    assert error.code == code
    assert error.message == f"the server refused the mail: {code} because"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("550 5.1.1 <bob@example.org>: unknown", "550 5.1.1 <…@…>: unknown"),
        ("no such user bob.o'hara+x@mail.example.org here", "no such user …@… here"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_addresses_are_masked_in_messages(text: str, safe: str) -> None:
    assert without_emails(text) == safe
    error = MailError(text)
    assert error.message == safe
    assert error.detail == text
