"""The filters of the panel's lists: one native input each. Which a column gets follows from its type."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import sqlalchemy as sa
from flask_admin.contrib.sqla.filters import BaseSQLAFilter
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.core.presentation import label, reader_zone
from flask_belfry.db.columns import UtcDateTime, as_uuid_text
from flask_belfry.db.pagination import MAX_INTEGER


class PanelFilter(BaseSQLAFilter):
    """A filter that is one input. `parameter` is its name in the address.

    Args:
        column: what it narrows.
        name: what people call the column.
        suffix: tells several filters of one column apart.
        options: pairs of value and label: those make a choice of it.
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
        """What Flask-Admin calls the comparison."""
        return "is"

    def apply(self, query: Any, value: Any, alias: Any = None) -> Any:
        """The narrowed query; `value` comes from `clean`."""
        return query.where(self.attribute == value)


class ChoiceFilter(PanelFilter):
    """One of an enum's values, or of yes and no."""

    def clean(self, value: str) -> Any:
        """Raises ValueError for what is no choice."""
        if value not in self.values:
            raise ValueError(value)
        return value == "yes" if isinstance(self.attribute.type, sa.Boolean) else value


class NumberFilter(PanelFilter):
    """A whole number, as an id."""

    input_type = "number"

    def clean(self, value: str) -> int:
        """Raises ValueError for what the column cannot hold."""
        number = int(value)
        if abs(number) > MAX_INTEGER:
            raise ValueError(value)
        return number


class IdFilter(PanelFilter):
    """A UUID."""

    def clean(self, value: str) -> str:
        """Raises ValueError for what is none."""
        id = as_uuid_text(value)
        if id is None:
            raise ValueError(value)
        return id


class DayFilter(PanelFilter):
    """From a day on, or before one, on the reader's calendar."""

    input_type = "date"

    def clean(self, value: str) -> date | datetime:
        """Raises ValueError for what is no day."""
        day = date.fromisoformat(value)
        if not isinstance(self.attribute.type, UtcDateTime):
            return day
        try:
            return datetime.combine(day, time(), reader_zone()).astimezone(UTC)
        except OverflowError as error:
            raise ValueError(value) from error

    def apply(self, query: Any, value: Any, alias: Any = None) -> Any:
        """The narrowed query."""
        is_from = self.parameter.endswith("_from")
        return query.where(self.attribute >= value if is_from else self.attribute < value)


def filters_of(column: InstrumentedAttribute[Any], name: str) -> list[PanelFilter]:
    """The filters of a column, by its type."""
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
