"""What a job may return: small JSON, since it is kept with the record and shown."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

from flask_belfry.db.columns import error_text
from flask_belfry.execution.errors import JobResultError

MAX_RESULT_BYTES = 10_000
# Whoever shows a result goes through it level by level.
MAX_RESULT_LEVELS = 100
_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LEVELS = {"[": 1, "{": 1, "]": -1, "}": -1}


def result_text(result: Any) -> str | None:
    """The JSON of `result` as it is stored, from here on its only form; None for no result.

    Raises:
        JobResultError: it is not JSON, has more than 10,000 bytes or 100 levels, or text without an encoding.
    """
    if result is None:
        return None
    try:
        text = json.dumps(result, allow_nan=False)
    except Exception as error:
        raise JobResultError(f"a job returns small JSON or None: {error_text(error)}") from error
    if len(text) > MAX_RESULT_BYTES:
        raise JobResultError(f"a job returns at most {MAX_RESULT_BYTES} bytes of JSON, not {len(text)}")
    # Brackets within texts count here, so that only what looks deep is looked at closely.
    if text.count("[") + text.count("{") > MAX_RESULT_LEVELS and _levels(text) > MAX_RESULT_LEVELS:
        raise JobResultError(f"a job returns JSON of at most {MAX_RESULT_LEVELS} levels")
    if "\\ud" in text and not _is_encodable(json.loads(text)):
        raise JobResultError("a job returns text that has an encoding: there is half a surrogate pair in it")
    return text


def _levels(text: str) -> int:
    return max(accumulate(_LEVELS.get(character, 0) for character in _TEXTS.sub("", text)))


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
