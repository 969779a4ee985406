"""A mail on the wire: what its headers say, and what they refuse."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest

from app.mail.errors import PermanentMailError
from app.mail.message import OutgoingMessage


def message(**changes: Any) -> OutgoingMessage:
    values: dict[str, Any] = {
        "subject": "Hello",
        "recipients": ["ada@example.org"],
        "text": "Text",
        "html": "<p>HTML</p>",
        "message_id": "<1@belfry.example>",
        "sender": "Belfry <no-reply@belfry.example>",
    }
    return OutgoingMessage(**(values | changes))


def parsed(**changes: Any) -> Any:
    return message_from_bytes(message(**changes).as_bytes(), policy=policy.default)  # type: ignore[arg-type]


def test_the_root_is_multipart_alternative_with_text_first() -> None:
    mail = parsed()
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_the_message_id_and_the_date_are_ours() -> None:
    mail = parsed()
    assert mail["Message-ID"] == "<1@belfry.example>"
    assert mail["Date"].endswith("+0000")


def test_it_says_that_a_machine_wrote_it() -> None:
    assert parsed()["Auto-Submitted"] == "auto-generated"


def test_texts_of_every_script_survive() -> None:
    mail = parsed(subject="Grüße — 予約" * 9, text="= ünï\n.dot\n", html="<p>予約</p>")
    assert mail["Subject"] == "Grüße — 予約" * 9
    assert mail.get_body(("plain",)).get_content().splitlines() == ["= ünï", ".dot"]
    assert mail.get_body(("html",)).get_content().strip() == "<p>予約</p>"


def test_every_line_is_short_ascii_and_ends_in_crlf() -> None:
    content = message(html="<p>" + "ü" * 5_000 + "</p>", text="a\rb\r\nc\nd").as_bytes()
    assert content.isascii()
    lines = content.split(b"\r\n")
    assert max(map(len, lines)) <= 100
    assert not any(b"\r" in line or b"\n" in line for line in lines)


@pytest.mark.parametrize("field", ["subject", "sender", "message_id"])
@pytest.mark.parametrize("smuggled", ["a\r\nBcc: eve@example.org", "a\nBcc: eve@example.org", "a\rx", "a\0x"])
def test_a_header_with_a_line_break_is_refused(field: str, smuggled: str) -> None:
    with pytest.raises(PermanentMailError, match="line break"):
        message(**{field: smuggled}).as_bytes()


def test_a_recipient_with_a_line_break_is_refused() -> None:
    with pytest.raises(PermanentMailError, match="line break"):
        message(recipients=["ada@example.org\r\nBcc: eve@example.org"]).as_bytes()


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(PermanentMailError, match="Unicode"):
        message(text="\ud800").as_bytes()
