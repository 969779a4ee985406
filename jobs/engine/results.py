"""What a job may return: small JSON, since it is kept with the record and shown."""

from __future__ import annotations

import json
from typing import Any

from jobs.engine.errors import JobResultError

MAX_RESULT_BYTES = 10_000


def checked_result(result: Any) -> Any:
    """Gives `result` back when it is JSON of at most 10,000 bytes; raises JobResultError otherwise."""
    try:
        size = len(json.dumps(result, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise JobResultError(f"a job returns small JSON or None: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise JobResultError(f"a job returns at most {MAX_RESULT_BYTES} bytes of JSON, not {size}")
    return result
