"""The result of a job: small JSON, since it is stored with the record and displayed."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

from flask_belfry.db.columns import error_text
from flask_belfry.execution.errors import JobResultError

MAX_RESULT_BYTES = 10_000
# Displaying a result recurses into its levels.
MAX_RESULT_LEVELS = 100
_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LEVELS = {"[": 1, "{": 1, "]": -1, "}": -1}


def result_text(result: Any) -> str | None:
    """Return `result` as the JSON that is stored; None for no result.

    Raises:
        JobResultError: it is not JSON, exceeds 10,000 bytes or 100 levels, or has text without an encoding.
    """
    if result is None:
        return None
    try:
        text = json.dumps(result, allow_nan=False)
    except Exception as error:
        raise JobResultError(f"a job must return small JSON or None: {error_text(error)}") from error
    if len(text) > MAX_RESULT_BYTES:
        raise JobResultError(f"a job must return at most {MAX_RESULT_BYTES} bytes of JSON, not {len(text)}")
    # A cheap upper bound first: it also counts the brackets within strings.
    if text.count("[") + text.count("{") > MAX_RESULT_LEVELS and _levels(text) > MAX_RESULT_LEVELS:
        raise JobResultError(f"a job must return JSON of at most {MAX_RESULT_LEVELS} levels")
    if "\\ud" in text and not _is_encodable(json.loads(text)):
        raise JobResultError("a job must return text that can be encoded: it contains half a surrogate pair")
    return text


def _levels(text: str) -> int:
    return max(accumulate(_LEVELS.get(character, 0) for character in _TEXTS.sub("", text)))


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
