"""Filters of the lists: one native input each, selected by the type of the column."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import sqlalchemy as sa
from flask_admin.contrib.sqla.filters import BaseSQLAFilter
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.core.presentation import label, reader_zone
from flask_belfry.db.columns import MAX_INTEGER, UtcDateTime, as_uuid_text


class PanelFilter(BaseSQLAFilter):
    """A filter with one input. `parameter` is its name in the URL.

    Args:
        column: the filtered column.
        name: label of the column.
        suffix: distinguishes several filters of one column.
        options: pairs of value and label; if given, the input is a choice.
    """

    input_type = "text"

    def __init__(
        self,
        column: InstrumentedAttribute[Any],
        name: str,
        suffix: str = "",
        options: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(column, f"{name} {suffix}".strip(), options)
        self.values = frozenset(value for value, _ in options or ())
        self.attribute = column
        self.parameter = "_".join(filter(None, (column.key, suffix)))

    def operation(self) -> str:
        """Return the name of the comparison for Flask-Admin."""
        return "is"

    def apply(self, query: Any, value: Any, alias: Any = None) -> Any:
        """Return the filtered query; `value` is the result of `clean`."""
        return query.where(self.attribute == value)


class ChoiceFilter(PanelFilter):
    """A value of an enum, or yes and no."""

    def clean(self, value: str) -> Any:
        """Return the value. Raises ValueError if it is not a choice."""
        if value not in self.values:
            raise ValueError(value)
        return value == "yes" if isinstance(self.attribute.type, sa.Boolean) else value


class NumberFilter(PanelFilter):
    """A whole number, e.g. an id."""

    input_type = "number"

    def clean(self, value: str) -> int:
        """Return the number. Raises ValueError if the column cannot store it."""
        number = int(value)
        if abs(number) > MAX_INTEGER:
            raise ValueError(value)
        return number


class IdFilter(PanelFilter):
    """A UUID."""

    def clean(self, value: str) -> str:
        """Return the UUID. Raises ValueError if it is invalid."""
        id = as_uuid_text(value)
        if id is None:
            raise ValueError(value)
        return id


class DayFilter(PanelFilter):
    """From a day on, or before a day, in the time zone of the reader."""

    input_type = "date"

    def clean(self, value: str) -> date | datetime:
        """Return the day, or its start in UTC. Raises ValueError if it is invalid."""
        day = date.fromisoformat(value)
        if not isinstance(self.attribute.type, UtcDateTime):
            return day
        try:
            return datetime.combine(day, time(), reader_zone()).astimezone(UTC)
        except OverflowError as error:
            raise ValueError(value) from error

    def apply(self, query: Any, value: Any, alias: Any = None) -> Any:
        """Return the filtered query."""
        is_from = self.parameter.endswith("_from")
        return query.where(self.attribute >= value if is_from else self.attribute < value)


def filters_of(column: InstrumentedAttribute[Any], name: str) -> list[PanelFilter]:
    """Return the filters of a column, by its type."""
    match column.type:
        case sa.Enum() as enum:
            return [ChoiceFilter(column, name, options=[(value, label(value)) for value in enum.enums])]
        case sa.Boolean():
            return [ChoiceFilter(column, name, options=[("yes", "yes"), ("no", "no")])]
        case sa.Integer():
            return [NumberFilter(column, f"{name}, number")]
        case sa.Uuid():
            return [IdFilter(column, name)]
        case UtcDateTime() | sa.Date():
            return [DayFilter(column, name, suffix) for suffix in ("from", "before")]
        case _:
            return [PanelFilter(column, name)]
