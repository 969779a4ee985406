"""The arguments of a job function as fields of a form: a kind of field for each annotation, and the values typed there.

The values are those that a job record stores: text, numbers, booleans, None and lists of them.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum, StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flask_belfry.core.presentation import label, reader_zone
from flask_belfry.outbox import JobArgumentError, JobRequest
from flask_belfry.outbox.registry import JobDefinition

_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")


class FieldKind(StrEnum):
    """A kind of field."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    CHECKBOX = "checkbox"
    CHOICE = "choice"
    DATE = "date"
    DATETIME = "datetime"
    JSON = "json"


_KINDS: Mapping[Any, FieldKind] = {
    bool: FieldKind.CHECKBOX,
    int: FieldKind.INTEGER,
    float: FieldKind.NUMBER,
    str: FieldKind.TEXT,
    date: FieldKind.DATE,
    datetime: FieldKind.DATETIME,
}


@dataclass(frozen=True)
class Parameter:
    """An argument of a job function.

    Args:
        name: its name.
        kind: the field in which it is typed; JSON where the annotation is missing or has no field of its own.
        is_required: whether the function has no default for it.
        default: the function's default.
        may_be_null: whether None is a value of it.
        choices: the values of a choice, with their labels.
    """

    name: str
    kind: FieldKind
    is_required: bool = True
    default: Any = None
    may_be_null: bool = False
    choices: tuple[tuple[Any, str], ...] = ()

    def problem(self, value: Any) -> str | None:
        """Return why a value is not one of this argument; None when it is."""
        if value is None:
            return None if self.may_be_null or self.kind is FieldKind.JSON else "must not be null"
        match self.kind:
            case FieldKind.TEXT:
                return None if isinstance(value, str) else "must be text"
            case FieldKind.INTEGER:
                return None if type(value) is int else "must be an integer"
            case FieldKind.NUMBER:
                return None if type(value) in (int, float) and math.isfinite(value) else "must be a number"
            case FieldKind.CHECKBOX:
                return None if isinstance(value, bool) else "must be true or false"
            case FieldKind.CHOICE:
                is_choice = any(type(choice) is type(value) and choice == value for choice, _ in self.choices)
                return None if is_choice else f"must be one of {', '.join(text for text, _ in self.options())}"
            case FieldKind.DATE:
                return None if _parses(date.fromisoformat, value) else "must be a date such as 2026-12-01"
            case FieldKind.DATETIME:
                return (
                    None if _parses(datetime.fromisoformat, value) else "must be a time such as 2026-12-01T08:30+01:00"
                )
            case FieldKind.JSON:
                return None

    def read(self, text: str) -> Any:
        """Return the value of a typed text, which is not empty. Raises ValueError with the reason."""
        value = self._parsed(text)
        if problem := self.problem(value):
            raise ValueError(problem)
        return value

    def shown(self, value: Any) -> str:
        """Return a value as it is typed."""
        match self.kind:
            case FieldKind.JSON:
                return json.dumps(value, ensure_ascii=False)
            case FieldKind.DATETIME if isinstance(value, str) and _parses(datetime.fromisoformat, value):
                moment = datetime.fromisoformat(value)
                local = moment.astimezone(reader_zone()) if moment.tzinfo else moment
                return local.replace(tzinfo=None).isoformat(timespec="minutes")
            case _:
                return _as_text(value)

    def options(self) -> list[tuple[str, str]]:
        """Return the values of a choice as they are sent, with their labels."""
        return [(_as_text(value), text) for value, text in self.choices]

    def _parsed(self, text: str) -> Any:
        match self.kind:
            case FieldKind.INTEGER:
                return int(text) if _INTEGER.fullmatch(text) else text
            case FieldKind.NUMBER:
                return float(text) if _parses(float, text) else text
            case FieldKind.CHECKBOX:
                return text == "true"
            case FieldKind.CHOICE:
                return next((choice for choice, _ in self.choices if _as_text(choice) == text), text)
            case FieldKind.DATETIME if _parses(datetime.fromisoformat, text):
                moment = datetime.fromisoformat(text)
                local = moment if moment.tzinfo else moment.replace(tzinfo=reader_zone())
                return local.astimezone(UTC).isoformat()
            case FieldKind.JSON:
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    raise ValueError('must be JSON: a number, "text" in quotes, true, false, null, or a list') from None
            case _:
                return text


def parameters_of(found: JobDefinition[..., Any]) -> list[Parameter]:
    """Return the arguments of a job, in the function's order. Those of a chunk have no annotations."""
    if found.chunk:
        return [Parameter(name, FieldKind.JSON) for name in found.takes]
    try:
        hints = get_type_hints(found.function)
    except (NameError, TypeError):  # an annotation that is imported for type checkers only
        hints = {}
    _, *arguments = inspect.signature(found.function).parameters.values()
    return [_parameter(argument, hints.get(argument.name, Any)) for argument in arguments]


def problems_of_args(found: JobDefinition[..., Any], args: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return why a job cannot have these arguments, by `args.NAME`, and under `args` for all together."""
    wrong = {
        each.name: [problem]
        for each in parameters_of(found)
        if each.name in args and (problem := each.problem(args[each.name]))
    }
    try:
        found.check(JobRequest(args))
    except JobArgumentError as error:
        wrong = error.fields | wrong
    return {name if name == "args" else f"args.{name}": messages for name, messages in wrong.items()}


def _parameter(argument: inspect.Parameter, hint: Any) -> Parameter:
    hint, may_be_null = _without_none(hint)
    is_required = argument.default is inspect.Parameter.empty
    default = None if is_required else argument.default
    kind, choices = _kind_of(hint)
    if kind is FieldKind.CHECKBOX and (may_be_null or (default is None and not is_required)):
        kind, choices = FieldKind.CHOICE, ((True, "Yes"), (False, "No"))
    may_be_null = may_be_null or (not is_required and default is None)
    return Parameter(argument.name, kind, is_required, default, may_be_null, choices)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return an annotation without `| None`, and whether it had it."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    others = [each for each in get_args(hint) if each is not type(None)]
    return (others[0] if len(others) == 1 else Any), len(others) < len(get_args(hint))


def _kind_of(hint: Any) -> tuple[FieldKind, tuple[tuple[Any, str], ...]]:
    if get_origin(hint) is Literal:
        return FieldKind.CHOICE, tuple((value, _as_text(value)) for value in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return FieldKind.CHOICE, tuple((member.value, label(member.name)) for member in hint)
    return _KINDS.get(hint, FieldKind.JSON), ()


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parses(parse: Callable[[str], object], value: Any) -> bool:
    try:
        parse(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
