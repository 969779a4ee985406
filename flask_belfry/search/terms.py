"""The grammar of the search language: terms as they are written, without knowledge of what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flask_belfry.core.errors import InvalidInputError
from flask_belfry.core.text import CONTROL_CHARACTERS, SURROGATES

MAX_CHARACTERS = 500
MAX_VALUES = 50
# The name of the parameter and of the field with the query.
PARAMETER = "q"

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TERM = re.compile(rf'(?P<minus>-?)(?P<key>[A-Za-z_][A-Za-z0-9_.-]*):(?P<values>(?:{_QUOTED}|[^\s"])*)(?=\s|$)')
_TEXT = re.compile(rf'(?P<minus>-?)(?P<value>{_QUOTED}|[^\s"]+)(?=\s|$)')
_VALUE = re.compile(rf'({_QUOTED}|[^,"]+)(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")
_PLAIN = re.compile(r'[^\s,"\\]+')


@dataclass(frozen=True)
class Term:
    """One term: `key:value,value`, or text, whose key is empty. With several values, one of them must match."""

    key: str
    values: tuple[str, ...]
    is_excluded: bool = False

    def __str__(self) -> str:
        values = ",".join(written(value, is_text=not self.key) for value in self.values)
        return f"{'-' if self.is_excluded else ''}{self.key}{':' if self.key else ''}{values}"


def invalid(term: object, problem: str) -> InvalidInputError:
    """Return the error for a term.

    Args:
        term: as it is written.
        problem: what is wrong, and what is valid.
    """
    message = f"The term {term} is invalid: {problem}"
    return InvalidInputError(f"{message}.", {PARAMETER: [message]})


def parse_terms(text: str) -> list[Term]:
    """Return the terms of a query in their order. Raises InvalidInputError for what is not a term."""
    if len(text) > MAX_CHARACTERS:
        message = f"must have at most {MAX_CHARACTERS} characters"
        raise InvalidInputError("The search is too long.", {PARAMETER: [message]})
    if CONTROL_CHARACTERS.search(text) or SURROGATES.search(text):
        raise InvalidInputError("The search is invalid.", {PARAMETER: ["must have no control characters"]})
    found: list[Term] = []
    at = _after_space(text, 0)
    while at < len(text):
        match = _TERM.match(text, at) or _TEXT.match(text, at)
        if match is None:
            raise invalid(text[at:], 'a quote must be closed, and followed by a space; write " as \\" within quotes')
        found.append(_term(match))
        at = _after_space(text, match.end())
    if sum(len(term.values) for term in found) > MAX_VALUES:
        raise InvalidInputError("The search is too long.", {PARAMETER: [f"must have at most {MAX_VALUES} values"]})
    return found


def written(value: str, *, is_text: bool = False) -> str:
    """Return a value as the language has it: in quotes where it needs them.

    Args:
        value: the value.
        is_text: whether it has no key: a colon would make a key of its beginning.
    """
    is_plain = _PLAIN.fullmatch(value) and not (is_text and (":" in value or value.startswith("-")))
    return value if is_plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def join(terms: Iterable[Term]) -> str:
    """Return a query with these terms."""
    return " ".join(str(term) for term in terms)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _term(match: re.Match[str]) -> Term:
    is_excluded = bool(match["minus"])
    if "key" not in match.groupdict():
        value = _unquoted(match["value"])
        if not value:
            raise invalid(match[0], "it has no text")
        return Term("", (value,), is_excluded)
    values: list[str] = []
    at, written_values = 0, match["values"]
    while at < len(written_values) and (value := _VALUE.match(written_values, at)):
        values.append(_unquoted(value[1]))
        at = value.end()
    if at < len(written_values) or written_values.endswith(",") or "" in values:
        raise invalid(match[0], "write its values as a,b; one with a space, a comma or a quote needs quotes")
    return Term(match["key"].lower() if "." not in match["key"] else match["key"], tuple(values), is_excluded)


def _unquoted(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
