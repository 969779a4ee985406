"""Completion of queries: how a text may continue."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask_belfry.search.language import Field, Language
from flask_belfry.search.terms import MAX_CHARACTERS, written

MAX_COMPLETIONS = 12
_AGES = ("15m", "1h", "2h", "24h", "7d")
_LAST_WORD = re.compile(
    r'(?:^|\s)(?P<minus>-?)(?:(?P<key>[A-Za-z_][A-Za-z0-9_.-]*):(?P<others>(?:[^\s",]+,)*))?(?P<word>[^\s",]*)$'
)


def complete(language: Language, text: str) -> list[str]:
    """Return whole queries that begin with a text and continue its last term; none when it cannot be continued."""
    match = _LAST_WORD.search(text[:MAX_CHARACTERS])
    if match is None:
        return []
    before = text[: match.start("word")]
    if match["key"] is None:
        words: Iterable[str] = (key if key.endswith(".") else f"{key}:" for key in _keys(language))
    else:
        words = (written(value) for value in _values(language, match["key"]))
    found = [word for word in words if word.startswith(match["word"]) and word != match["word"]]
    return [f"{before}{word}" for word in found[:MAX_COMPLETIONS]]


def _keys(language: Language) -> list[str]:
    return [key.removesuffix("NAME") for key in language.keys]


def _values(language: Language, key: str) -> Iterable[str]:
    if key in ("since", "until"):
        return _AGES
    found: Field | None = language.fields.get(key)
    return found.suggest() if found and found.suggest else ()
