"""Text from outside: the characters that a field allows, and the filters of lists in the query string.

`flask_belfry.core.presentation` formats values for pages.
"""

from __future__ import annotations

import re

from flask import request

# PostgreSQL does not store NUL in text; other control characters are not valid in a form field.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")
CONTROL_CHARACTERS_REFUSED = "Control characters are not allowed."
MAX_QUERY_CHARACTERS = 200


def query_text(name: str) -> str | None:
    """The query's parameter `name` as a filter: without control characters and outer space, cut at
    `MAX_QUERY_CHARACTERS`; None when nothing is left.

    A filter narrows what is shown, so what cannot be in it is left out; fields that are kept refuse instead.
    """
    given = request.args.get(name, "")[:MAX_QUERY_CHARACTERS]
    return CONTROL_CHARACTERS.sub("", given).strip() or None


def is_encodable(value: object) -> bool:
    r"""Whether all text within parsed JSON can be kept: `"\ud800"`, half a pair of surrogates, is valid JSON, and no
    encoding has it (RFC 8259, section 8.2)."""
    if isinstance(value, str):
        return SURROGATES.search(value) is None
    if isinstance(value, dict):
        return all(is_encodable(key) and is_encodable(below) for key, below in value.items())
    return not isinstance(value, list) or all(is_encodable(below) for below in value)
