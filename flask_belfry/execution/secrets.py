"""The secret arguments of jobs: their values appear in no log line, error message or traceback."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask_belfry.core.secrets import pattern_of
from flask_belfry.execution.claim import Claim
from flask_belfry.outbox import UnknownJobError
from flask_belfry.outbox.registry import definition


def secrets_of(items: Iterable[Claim]) -> re.Pattern[str] | None:
    """Return what finds the values of the secret arguments of these records in text; None when there are none."""
    return pattern_of(value for item in items for value in _values(item))


def _values(item: Claim) -> list[object]:
    try:
        names = definition(item.name).secrets
    except UnknownJobError:  # then no function has seen them
        return []
    return [item.args[name] for name in names if name in item.args]
