"""What the terms of a list mean: languages, and queries as conditions on the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flask_belfry.db.columns import MAX_INTEGER, as_uuid_text, lowest_id
from flask_belfry.search.terms import Term, invalid, join, parse_terms

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(\d{1,9})([smhdw])")
TIMES = "an age such as 30m, 2h or 7d, or a time such as 2026-11-30 or 2026-11-30T09:14, in UTC without an offset"
# An id may be made before the row of which it is the id: it is that long before at most.
_OLDER_IDS = timedelta(minutes=5)
# Times before it bound nothing: ids have no earlier time.
_FIRST_ID = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Field:
    """A key of a language.

    Args:
        valid: the valid values, in words.
        read: returns the value in Python; raises ValueError for an invalid one.
        spellings: returns the values that a value means, if there are several.
        column: the name of the column that has the value, when an index has it.
        is_indexed: whether the index has this value.
        domain: all values of this column, if they are few: then an exclusion uses the index too.
        has_patterns: whether a value may have `*`, which stands for any characters, and then matches in any case.
        condition: the condition for a value or a pattern, where it is not that of a column.
        suggest: returns values for completion.
    """

    valid: str
    read: Callable[[str], Any] = str
    spellings: Callable[[Any], Collection[Any]] = lambda value: (value,)
    column: str | None = None
    is_indexed: Callable[[Any], bool] = lambda value: True
    domain: frozenset[Any] = frozenset()
    has_patterns: bool = False
    condition: Callable[[Any], sa.ColumnElement[bool]] | None = None
    suggest: Callable[[], Collection[str]] | None = None


@dataclass(frozen=True)
class Index:
    """An index: the rows with one value in each of these columns, in the order of their ids.

    Args:
        name: of the index.
        columns: the names of its columns, without `id`.
        is_narrow: whether few rows have the same values, so that the rows of other schools among them do not matter.
        condition: of a partial index, as its definition has it.
    """

    name: str
    columns: tuple[str, ...]
    is_narrow: bool = False
    condition: sa.TextClause | None = None


@dataclass(frozen=True)
class Language:
    """The keys of a list.

    Args:
        model: the rows. They have `id`, a UUID of version 7, and `created_at`.
        fields: by their keys. `since` and `until` are part of every language.
        indexes: those that a search may use, the most selective first.
        text: returns the condition for a text without a key.
        nested: returns the field of a key with a dot, such as `args.school_id`; None for an unknown one.
        nested_keys: how those keys are written, for messages.
        aliases: the parameters of requests that are terms too; `text` is a term without a key.
        rewritten: returns the term that a term of the user is searched as, such as one that an index has.
        values_like: returns the values of a column that match patterns.
        expressions: by name, the columns that are not attributes of the model.
    """

    model: Any
    fields: Mapping[str, Field]
    indexes: Sequence[Index]
    text: Callable[[str], sa.ColumnElement[bool]]
    nested: Callable[[str], Field | None] = lambda key: None
    nested_keys: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    rewritten: Callable[[Term], Term] = lambda term: term
    values_like: Callable[[str, Sequence[str]], Collection[Any]] = lambda column, patterns: ()
    expressions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The keys, as messages and the documentation list them."""
        return [*self.fields, *self.nested_keys, "since", "until"]

    def hints(self) -> list[tuple[str, str]]:
        """Return the keys with their valid values."""
        nested = [(key, found.valid) for key in self.nested_keys if (found := self.nested(key))]
        return [*((key, found.valid) for key, found in self.fields.items()), *nested, ("since, until", TIMES)]

    def parse(self, text: str, given: Mapping[str, Any] | None = None, *, now: datetime) -> Query:
        """Return the query that a text describes, and parameters that are terms by themselves.

        Args:
            text: of the user.
            given: the parameters. Those that are not `aliases`, and those without a value, are ignored.
            now: what ages such as `since:2h` are relative to.

        Raises:
            InvalidInputError: names the term and what is valid.
        """
        terms = parse_terms(text)
        keys = {term.key for term in terms}
        for key in self.aliases:
            if not (value := (given or {}).get(key)):
                continue
            written = value.isoformat() if isinstance(value, datetime) else str(value)
            term = Term("" if key == "text" else key, (written,))
            if term.key and term.key in keys:
                raise invalid(term, f"give {key} either within the search or beside it")
            terms.append(term)
        return self.query([self.rewritten(term) for term in terms], now=now)

    def query(self, terms: Sequence[Term], *, now: datetime) -> Query:
        """Return a query of these terms. Raises InvalidInputError."""
        return _Builder(self, now).build(terms)

    @property
    def primary_key(self) -> Index:
        """The index of all rows."""
        return Index(f"sqlite_autoindex_{self.model.__tablename__}_1", ())

    def column(self, name: str) -> Any:
        """Return a column by its name."""
        return self.expressions.get(name, getattr(self.model, name, None))

    def domain(self, column: str) -> frozenset[Any]:
        """Return all values of a column, if they are few and known."""
        return next((each.domain for each in self.fields.values() if each.column == column), frozenset())

    def field(self, term: Term) -> Field:
        """Return the field of a term with a key. Raises InvalidInputError for an unknown one."""
        found = self.fields.get(term.key) or (self.nested(term.key) if "." in term.key else None)
        if found is None:
            keys = ", ".join(self.keys)
            raise invalid(term, f'the keys are {keys}; write text with a colon in quotes, "{term.key}:…"')
        return found


@dataclass(frozen=True, eq=False)
class Query:
    """What a search matches: rows to which all of its parts apply.

    Args:
        values: of columns that an index has: the values of which one must be in the column.
        patterns: of such columns: patterns of which one must match.
        filters: the conditions that no index has.
        lowest_id, highest_id: of the rows that may be within `since` and `until`.
        times: the conditions for the exact times, where the ids do not give them.
    """

    language: Language
    terms: tuple[Term, ...]
    now: datetime
    values: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    filters: tuple[sa.ColumnElement[bool], ...] = ()
    lowest_id: str | None = None
    highest_id: str | None = None
    times: tuple[sa.ColumnElement[bool], ...] = ()

    def __str__(self) -> str:
        return join(self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def values_of(self, key: str) -> tuple[str, ...]:
        """Return the values of the terms with this key, without those that it excludes."""
        return tuple(value for term in self.terms if term.key == key and not term.is_excluded for value in term.values)

    def having(self, key: str, *values: str) -> Query:
        """Return the query with these values of a key instead of its own; without one, without the key."""
        kept = self.without(key)
        return self.language.query([*kept, Term(key, values)] if values else kept, now=self.now)

    def only(self, *keys: str) -> Query:
        """Return the query with the terms of these keys alone."""
        return self.language.query([term for term in self.terms if term.key in keys], now=self.now)

    def without(self, key: str) -> list[Term]:
        """Return the terms with other keys."""
        return [term for term in self.terms if term.key != key]

    def limited_to(self, column: str, values: Collection[Any]) -> Query:
        """Return the query for those of its rows that have one of these values in a column that an index has."""
        allowed = frozenset(values) & self.values.get(column, frozenset(values))
        return replace(self, values={**self.values, column: allowed})


class _Builder:
    def __init__(self, language: Language, now: datetime) -> None:
        self._language = language
        self._now = now
        self._values: dict[str, frozenset[Any]] = {}
        self._patterns: dict[str, tuple[str, ...]] = {}
        self._filters: list[sa.ColumnElement[bool]] = []
        self._times: dict[str, datetime] = {}

    def build(self, terms: Sequence[Term]) -> Query:
        merged: dict[tuple[str, bool], list[str]] = {}
        for term in terms:
            if not term.values:
                raise invalid(term, f"it needs a value: {self._valid(term)}")
            if not term.key:
                self._read_text(term)
            elif term.key in ("since", "until"):
                self._read_time(term)
            else:
                merged.setdefault((term.key, term.is_excluded), []).extend(term.values)
        for (key, is_excluded), values in merged.items():
            self._read(Term(key, tuple(dict.fromkeys(values)), is_excluded))
        return Query(
            language=self._language,
            terms=tuple(terms),
            now=self._now,
            values=self._values,
            patterns=self._patterns,
            filters=tuple(self._filters),
            **self._bounds(),
        )

    def _read_text(self, term: Term) -> None:
        (text,) = term.values
        if (id := as_uuid_text(text)) and not term.is_excluded:
            self._narrow("id", frozenset([id]))
        else:
            self._filters.append(_negated_if(term.is_excluded, self._language.text(text)))

    def _valid(self, term: Term) -> str:
        return TIMES if term.key in ("since", "until") else self._language.field(term).valid

    def _read(self, term: Term) -> None:
        found = self._language.field(term)
        plain = [value for value in term.values if not (found.has_patterns and "*" in value)]
        patterns = tuple(value for value in term.values if value not in plain)
        try:
            read = frozenset(each for value in plain for each in found.spellings(found.read(value)))
        except ValueError as error:
            raise invalid(term, f"valid is {found.valid}") from error
        is_indexed = found.column is not None and all(found.is_indexed(value) for value in read)
        if found.column is None or not is_indexed or (term.is_excluded and not found.domain):
            self._filters.append(_negated_if(term.is_excluded, self._condition(found, read, patterns)))
            return
        if patterns:
            self._patterns[found.column] = patterns
        self._narrow(found.column, found.domain - read if term.is_excluded else read)

    def _narrow(self, column: str, values: frozenset[Any]) -> None:
        self._values[column] = values & self._values.get(column, values)

    def _condition(self, found: Field, values: Collection[Any], patterns: Sequence[str]) -> sa.ColumnElement[bool]:
        if found.condition is not None:
            return sa.or_(*(found.condition(value) for value in (*values, *patterns)))
        column = self._language.column(found.column or "")
        return sa.or_(*(is_value(column, value) for value in values), *(is_like(column, each) for each in patterns))

    def _read_time(self, term: Term) -> None:
        if term.is_excluded or len(term.values) > 1 or term.key in self._times:
            raise invalid(term, f"give it once, with one value: {TIMES}")
        self._times[term.key] = _time(term, self._now)

    def _bounds(self) -> dict[str, Any]:
        since, until = self._times.get("since"), self._times.get("until")
        return {
            "lowest_id": lowest_id(since - _OLDER_IDS) if since and since > _FIRST_ID else None,
            "highest_id": lowest_id(max(until, _FIRST_ID)) if until else None,
            "times": (self._language.model.created_at >= since,) if since else (),
        }


def _negated_if(is_excluded: bool, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    # A comparison with NULL is NULL, and so is its negation: an excluded value is not that of an empty column.
    return sa.not_(sa.func.coalesce(condition, sa.false(), type_=sa.Boolean())) if is_excluded else condition


def is_value(column: Any, value: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a column has a value, which may be None."""
    return column.is_(None) if value is None else column == value


def is_like(column: Any, pattern: str) -> sa.ColumnElement[bool]:
    """Return the condition that a column matches a pattern, in which `*` stands for any characters, in any case."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.ilike(escaped.replace("*", "%"), escape="\\")


def _time(term: Term, now: datetime) -> datetime:
    (value,) = term.values
    try:
        if age := _AGE.fullmatch(value):
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(term, f"valid is {TIMES}") from error


def read_uuid(value: str) -> str:
    """Return the canonical text of a UUID. Raises ValueError."""
    if (id := as_uuid_text(value)) is None:
        raise ValueError(value)
    return id


def read_number(value: str) -> int:
    """Return the number of an id. Raises ValueError."""
    if not (value.isascii() and value.isdecimal()) or int(value[:11]) > MAX_INTEGER:
        raise ValueError(value)
    return int(value)
