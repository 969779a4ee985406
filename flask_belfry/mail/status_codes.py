"""Enhanced status codes of SMTP replies (RFC 3463): who is at fault for a refusal.

Only servers that give a code are believed: of a basic code such as 550 nothing follows but that the mail is refused.
"""

from __future__ import annotations

import re
from enum import Enum

# At the start of the text (RFC 2034, section 4). What follows it is free: "5.7.1: blocked", but not the rest of an IP
# address.
_CODE = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")

# Of 5.1.x. These are about the address of the sender, x.1.5 and x.1.9 about a valid address.
_SENDER_ADDRESS = frozenset({7, 8})
_VALID_ADDRESS = frozenset({5, 9})


class Fault(Enum):
    """Who is at fault for a refusal."""

    ADDRESS = "the recipient's email address does not exist or accepts no mail"
    MAILBOX_FULL = "the recipient's mailbox is full"
    SENDER = "the server refuses us: our reputation, signatures, sender or content"
    OTHER = "anything else"


def enhanced_code(code: int, text: str) -> str | None:
    """Return the enhanced status code of a reply, such as `5.1.1`.

    Args:
        code: the reply's basic code, whose class the enhanced code must have.
        text: the reply's text.
    """
    found = _CODE.match(text)
    if found is None or int(found[1]) != code // 100:
        return None
    return f"{found[1]}.{int(found[2])}.{int(found[3])}"


def fault_of(status_code: str | None) -> Fault:
    """Return who is at fault, according to the enhanced status code of a refusal."""
    if status_code is None:
        return Fault.OTHER
    class_, subject, detail = map(int, status_code.split("."))
    if class_ not in (4, 5):
        return Fault.OTHER
    if subject == 7 or (subject == 1 and detail in _SENDER_ADDRESS):
        return Fault.SENDER
    if (subject, detail) == (2, 2):
        return Fault.MAILBOX_FULL
    # An unknown detail means the same as x.1.0 (RFC 3463, section 2).
    is_address = class_ == 5 and subject == 1 and detail not in _VALID_ADDRESS
    return Fault.ADDRESS if is_address or status_code == "5.2.1" else Fault.OTHER
