"""Enhanced status codes: how they are read from replies, and who is at fault."""

from __future__ import annotations

import pytest

from flask_belfry.mail.errors import (
    AddressRefusedError,
    MailError,
    PermanentMailError,
    SenderRefusedError,
    TemporaryMailError,
)
from flask_belfry.mail.smtp_session import refusal_error
from flask_belfry.mail.status_codes import Fault, enhanced_code, fault_of


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (550, "5.1.1 unknown", "5.1.1"),
        (550, "5.1.1", "5.1.1"),
        (550, "5.1.10 null MX", "5.1.10"),
        (550, "5.7.026: not authenticated", "5.7.26"),
        (550, "5.1.1<ada@example.org>: unknown", "5.1.1"),
        (452, "4.2.2 full", "4.2.2"),
        (550, "4.1.1 another class", None),
        (450, "5.1.1 another class", None),
        (550, "unknown: 5.1.1", None),
        (550, "#5.1.1 unknown", None),
        (550, "5.1.1.9 is blocked", None),
        (550, "5.1.1234 is too long", None),
        (550, "5.1 unknown", None),
        (354, "3.1.1 no class", None),
        (550, "", None),
    ],
)
def test_the_code_is_at_the_start_of_the_text_and_of_the_class_of_the_reply(
    code: int, text: str, expected: str | None
) -> None:
    assert enhanced_code(code, text) == expected


FAULTS = {
    Fault.ADDRESS: ("5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.1.99", "5.2.1"),
    Fault.MAILBOX_FULL: ("5.2.2", "4.2.2"),
    Fault.SENDER: ("5.1.7", "5.1.8", "4.1.7", "4.1.8", "5.7.0", "5.7.1", "5.7.26", "5.7.509", "4.7.0", "4.7.1"),
    Fault.OTHER: (
        *("5.1.5", "5.1.9", "4.1.0", "4.1.1", "4.2.1", "5.2.0", "5.2.3", "5.3.4", "5.4.4", "5.5.1", "5.6.0", "5.0.0"),
        *("5.0.1", "5.2.10", "5.2.12", "5.11.1", "5.17.1", "2.1.1", "2.7.0"),
    ),
}


@pytest.mark.parametrize(("status_code", "fault"), [(code, fault) for fault, codes in FAULTS.items() for code in codes])
def test_each_code_names_who_is_at_fault(status_code: str, fault: Fault) -> None:
    assert fault_of(status_code) is fault


def test_without_a_code_nothing_is_known() -> None:
    assert fault_of(None) is Fault.OTHER


@pytest.mark.parametrize(
    ("code", "text", "is_of_recipient", "expected"),
    [
        (550, b"5.1.1 unknown", True, AddressRefusedError),
        (550, b"5.1.1 unknown", False, PermanentMailError),  # the reply to MAIL FROM
        (550, b"unknown", True, PermanentMailError),
        (552, b"5.2.2 full", True, TemporaryMailError),
        (552, b"full", True, PermanentMailError),
        (450, b"4.1.1 later", True, TemporaryMailError),
        (550, b"5.7.1 blocked", True, SenderRefusedError),
        (550, b"5.7.1 blocked", False, SenderRefusedError),
        (550, b"5.1.8 the sender's domain is unknown", True, SenderRefusedError),
        (451, b"4.7.1 greylisted", True, SenderRefusedError),
        (530, b"5.7.0 log in first", False, TemporaryMailError),  # a fault of the settings
        (554, b"5.6.0 no", True, PermanentMailError),
    ],
)
def test_the_error_of_a_refusal_says_what_follows(
    code: int, text: bytes, is_of_recipient: bool, expected: type[MailError]
) -> None:
    assert type(refusal_error("the mail", code, text, is_of_recipient=is_of_recipient)) is expected
