"""A mail on the wire: what its headers say, and what they refuse."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.utils import parseaddr
from typing import Any

import pytest

from flask_belfry.mail.errors import PermanentMailError
from flask_belfry.mail.message import OutgoingMessage


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


TEXTS = {
    "long": "word " * 400 + "end",
    "one long word": "x" * 3_000,
    "one long word of another script": "予" * 1_000,
    "what looks like an encoded word": "=?utf-8?q?Hello?= and =?utf-8?q?you?=",
    "several spaces": " a  b ",
    "tabs": "a\tb",
    "quotes": 'Ada "the Countess", of \\ Lovelace (UK) <x>',
    "letters": "Grüße, 予約 " * 30 + "end",
    "nothing": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_headers_are_read_as_they_were_written(text: str) -> None:
    quoted = text.replace("\\", r"\\").replace('"', r"\"")
    sender = f'"{quoted}" <no-reply@belfry.example>'
    content = message(subject=text, sender=sender, extra_headers={"X-Note": text}).as_bytes()
    lines = content.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not any(line.isspace() for line in lines)
    mail = message_from_bytes(content, policy=policy.default)  # type: ignore[arg-type]
    assert (mail["Subject"], mail["X-Note"]) == (text, text)
    # The library's own parser puts spaces between the encoded words of a name, against RFC 2047, section 6.2.
    raw = message_from_bytes(content, policy=policy.compat32)["From"].replace("\r\n", "")
    name, address = parseaddr(raw)
    assert (str(make_header(decode_header(name))), address) == (text, "no-reply@belfry.example")


def test_identifiers_are_folded_and_never_encoded() -> None:
    references = " ".join(f"<{number:036}@belfry.example>" for number in range(200))
    unsubscribe = f"<https://desk.example.org/{'x' * 500}>, <mailto:leave@example.org>"
    headers = {"References": references, "List-Unsubscribe": unsubscribe, "List-Id": "Büro, 予約 <desk.example.org>"}
    content = message(extra_headers=headers).as_bytes()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    mail = message_from_bytes(content, policy=policy.compat32)
    assert mail["References"].replace("\r\n", "") == references
    assert mail["List-Unsubscribe"].replace("\r\n", "") == unsubscribe
    assert str(make_header(decode_header(mail["List-Id"]))) == "Büro, 予約 <desk.example.org>"


@pytest.mark.parametrize("value", ["<" + "x" * 1_000 + "@belfry.example>", "<ü@belfry.example>"])
def test_an_identifier_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(PermanentMailError):
        message(extra_headers={"References": value}).as_bytes()


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


def test_text_that_is_not_valid_unicode_is_refused() -> None:
    with pytest.raises(PermanentMailError, match="Unicode"):
        message(text="\ud800").as_bytes()
