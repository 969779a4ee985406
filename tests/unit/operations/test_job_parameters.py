"""The arguments of a job function as fields: what is typed, what is given as JSON, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import pytest
from flask import Flask

from flask_belfry.operations.job_parameters import FieldKind, Parameter, parameters_of
from flask_belfry.outbox.registry import JobDefinition

if TYPE_CHECKING:
    from decimal import Decimal


class Level(StrEnum):
    """A choice."""

    LOW = "low"
    VERY_HIGH = "very-high"


def every_kind(
    session: Any,
    text: str,
    whole: int,
    fraction: float,
    level: Level,
    size: Literal[1, 2],
    day: date,
    moment: datetime,
    ids: list[int],
    anything: Any,
    unannotated,
    either: int | str,
    maybe: int | None,
    flag: bool = True,
    is_certain: bool | None = None,
    note: str = "none",
) -> list[Any]:
    """Has a parameter of every kind."""
    typed = [text, whole, fraction, level, size, day, moment, ids]
    return [*typed, anything, unannotated, either, maybe, flag, is_certain, note]


def hidden(session: Any, price: Decimal) -> Decimal:
    """Has an annotation that only type checkers can see."""
    return price


@pytest.fixture(autouse=True)
def _in_berlin() -> Iterator[None]:
    app = Flask(__name__)
    app.config["TIMEZONE"] = "Europe/Berlin"
    with app.app_context():
        yield


def parameters(function: Any = every_kind) -> dict[str, Parameter]:
    return {each.name: each for each in parameters_of(JobDefinition("test.kinds", function))}


KINDS = {
    "text": FieldKind.TEXT,
    "whole": FieldKind.INTEGER,
    "fraction": FieldKind.NUMBER,
    "level": FieldKind.CHOICE,
    "size": FieldKind.CHOICE,
    "day": FieldKind.DATE,
    "moment": FieldKind.DATETIME,
    "ids": FieldKind.JSON,
    "anything": FieldKind.JSON,
    "unannotated": FieldKind.JSON,
    "either": FieldKind.JSON,
    "maybe": FieldKind.INTEGER,
    "flag": FieldKind.CHECKBOX,
    "is_certain": FieldKind.CHOICE,
    "note": FieldKind.TEXT,
}


def test_each_annotation_has_its_kind_of_field_in_the_order_of_the_function():
    assert {name: each.kind for name, each in parameters().items()} == KINDS
    assert list(parameters()) == list(KINDS)
    assert {name for name, each in parameters().items() if not each.is_required} == {"flag", "is_certain", "note"}
    assert {name for name, each in parameters().items() if each.may_be_null} == {"maybe", "is_certain"}
    assert parameters()["level"].options() == [("low", "Low"), ("very-high", "Very high")]
    assert parameters()["is_certain"].options() == [("true", "Yes"), ("false", "No")]


def test_an_annotation_that_cannot_be_read_is_json():
    assert parameters(hidden)["price"].kind is FieldKind.JSON


READ = [
    ("text", "7", "7"),
    ("whole", "-7", -7),
    ("fraction", "2.5", 2.5),
    ("level", "very-high", Level.VERY_HIGH.value),
    ("size", "2", 2),
    ("day", "2026-12-01", "2026-12-01"),
    ("moment", "2026-12-01T08:30", "2026-12-01T07:30:00+00:00"),
    ("moment", "2026-12-01T08:30+05:00", "2026-12-01T03:30:00+00:00"),
    ("ids", "[1, 2]", [1, 2]),
    ("either", '"seven"', "seven"),
    ("flag", "true", True),
    ("is_certain", "false", False),
]


@pytest.mark.parametrize(("name", "text", "value"), READ)
def test_a_typed_text_is_a_value_and_is_shown_as_it_was_typed(name, text, value):
    each = parameters()[name]
    read = each.read(text)
    assert (read, type(read)) == (value, type(value))
    assert each.read(each.shown(read)) == value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("whole", "7.5", "must be an integer"),
        ("whole", "1_000", "must be an integer"),
        ("whole", "٧", "must be an integer"),
        ("whole", "9" * 31, "must be an integer"),
        ("fraction", "seven", "must be a number"),
        ("fraction", "nan", "must be a number"),
        ("fraction", "1e999", "must be a number"),
        ("level", "Low", "must be one of low, very-high"),
        ("size", "3", "must be one of 1, 2"),
        ("day", "1.12.2026", "must be a date"),
        ("moment", "tomorrow", "must be a time"),
        ("ids", "1, 2", "must be JSON"),
        ("anything", "[" * 5_000, "must be JSON"),
    ],
)
def test_a_typed_text_that_means_no_value_is_refused_with_the_reason(name, text, reason):
    with pytest.raises(ValueError, match=reason):
        parameters()[name].read(text)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("text", 7, "must be text"),
        ("text", None, "must not be null"),
        ("whole", True, "must be an integer"),
        ("whole", "7", "must be an integer"),
        ("fraction", True, "must be a number"),
        ("flag", 1, "must be true or false"),
        ("size", True, "must be one of 1, 2"),
        ("day", 20261201, "must be a date such as 2026-12-01"),
        ("moment", [], "must be a time such as 2026-12-01T08:30+01:00"),
        ("fraction", 7, None),
        ("maybe", None, None),
        ("is_certain", None, None),
        ("anything", None, None),
        ("ids", {"a": 1}, None),  # the registry refuses it, as for `enqueue`
    ],
)
def test_a_value_given_as_json_has_the_type_of_the_annotation(name, value, reason):
    assert parameters()[name].problem(value) == reason
