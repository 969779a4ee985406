"""Secrets in log lines: values under a name such as `password`, and values that the running code declares as secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "[secret]"
# Shorter values are masked as whole words only: otherwise the secret "1" would mask every digit 1.
_SHORT_CHARACTERS = 4
_SECRET_NAME = re.compile(
    r"(?:^|[_\W])(?:password|passwd|passphrase|secret|token|authorization|cookie|credentials?|api_?key|private_?key)$",
    re.IGNORECASE,
)

_hidden: ContextVar[re.Pattern[str] | None] = ContextVar("hidden_secrets", default=None)


@cache
def is_secret_name(name: str) -> bool:
    """Return whether values under this name are secret: `password`, `access_token`, `Authorization`."""
    return _SECRET_NAME.search(name) is not None


def pattern_of(values: Iterable[object]) -> re.Pattern[str] | None:
    """Return what finds these values in text, also quoted, escaped or as part of a URL; None when there are none.

    Of a list, each item is one. True, False and None are not secret.
    """
    forms: set[str] = set()
    for value in values:
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None and not isinstance(item, bool):
                forms |= _forms_of(str(item))
    if not forms:
        return None
    # The longest first: one may be a part of another.
    return re.compile("|".join(_expression(form) for form in sorted(forms, key=len, reverse=True)))


def mask(text: str, pattern: re.Pattern[str] | None) -> str:
    """Return `text` with a mask in place of what the pattern finds."""
    return text if pattern is None else pattern.sub(MASK, text)


@contextmanager
def secrets_hidden(pattern: re.Pattern[str]) -> Iterator[None]:
    """Mask what the pattern finds in the log lines of the block."""
    token = _hidden.set(pattern)
    try:
        yield
    finally:
        _hidden.reset(token)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask the secrets of a log line; a processor of structlog."""
    pattern = _hidden.get()
    for name, value in event.items():
        event[name] = _redacted(name, value, pattern)
    return event


def _redacted(name: object, value: Any, pattern: re.Pattern[str] | None) -> Any:
    if isinstance(name, str) and is_secret_name(name) and value is not None and not isinstance(value, bool):
        return MASK
    if isinstance(value, dict):
        return {_redacted(None, key, pattern): _redacted(key, item, pattern) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(None, item, pattern) for item in value]
    if pattern is None:
        return value
    text = value if isinstance(value, str) else shown_text(value)
    masked = pattern.sub(MASK, text)
    return value if masked == text else masked


def shown_text(value: object) -> str:
    """Return a value as text, also when its `str()` raises: a log line must not fail the code that writes it."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value may raise anything here
        return f"<{type(value).__name__} cannot be shown: {type(error).__name__}>"


def _forms_of(text: str) -> set[str]:
    quoted = {repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return ({text, quote(text), quote(text, safe=""), quote_plus(text)} | quoted) - {""}


def _expression(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT_CHARACTERS else rf"(?<!\w){escaped}(?!\w)"
