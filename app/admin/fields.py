"""Forms generated from columns: native inputs with the types of the columns (ids, aware times, members of enums)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute
from wtforms import (
    BooleanField,
    DateField,
    DateTimeLocalField,
    SelectField,
    StringField,
    TextAreaField,
)
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length, NumberRange, Optional

from app.accounts import User, find_user
from app.reservations import Resource
from app.schools import School
from app.web.forms import ServiceForm, WholeNumberField, plain_text, unix_lines
from app.web.local_time import local_from_utc, utc_from_local
from flask_belfry.core.presentation import label as label_of_value
from flask_belfry.core.presentation import plain, reader_zone, sentence
from flask_belfry.db import Base, db
from flask_belfry.db.columns import MAX_INTEGER, UtcDateTime

REQUIRED = "This field is required."
# Tables with few rows: their rows are choices. Rows of other tables are entered by id.
CHOSEN_FROM = (School, Resource)
# Columns whose label differs from the name.
LABELS = {
    "id": "ID",
    "ip_address": "IP address",
    "args": "Arguments",
    "at": "Time",
    "duration_minutes": "Duration in minutes",
    "current_login_ip": "Current login, IP address",
    "first_tick_at": "First run at",
    "gather_until": "Collects changes until",
    "is_wanted": "Wanted",
    "last_login_ip": "Last login, IP address",
    "last_tick_at": "Last run at",
    "may_operate": "May operate jobs and mails",
    "message_id": "Message-ID",
    "new": "After",
    "old": "Before",
    "pid": "Process ID",
    "request_id": "Request ID",
    "skips_own_changes": "Not notified of own changes",
    "subject_id": "Subject ID",
    "tf_primary_method": "Second factor",
    "tick_at": "Run time",
    "timeout_seconds": "Time limit in seconds",
    "told_until": "Notified until",
    "uncertain_count": "Uncertain deliveries",
    "user_agent": "Browser",
    "username_key": "Username for comparison",
}
# Limit of a single-line input; longer texts have several lines.
ONE_LINE_CHARACTERS = 300


class PanelForm(ServiceForm):
    """The base of the panel's forms."""


class EnumField(SelectField):
    """A choice of members of an enum."""

    def __init__(self, label: str, validators: Any, *, enum: type[StrEnum], **options: Any) -> None:
        choices = [SelectChoice(member.value, label_of_value(member)) for member in enum]
        super().__init__(label, validators, choices=choices, coerce=lambda value: enum(plain(value)), **options)


class ChosenRowField(SelectField):
    """A choice of rows of a small table; the value is the id, or None."""

    def __init__(self, label: str, validators: Any, *, model: Any, is_required: bool, **options: Any) -> None:
        rows = db.session.execute(sa.select(model.id, model.name).order_by(model.name, model.id)).all()
        first = [] if is_required else [SelectChoice("", "None")]
        choices = first + [SelectChoice(str(row.id), f"{row.name} (#{row.id})") for row in rows]
        super().__init__(label, validators, choices=choices, coerce=_id_or_none, **options)


class LoginField(StringField):
    """A user, by username or email address; the value is the id, or None."""

    def process_formdata(self, valuelist: list[str]) -> None:
        """Set the value from the request."""
        login = valuelist[0].strip() if valuelist else ""
        user = find_user(login) if login else None
        if login and user is None:
            raise ValueError("No user has this username or email address.")
        self.data = user.id if user else None  # pyright: ignore[reportAttributeAccessIssue]

    def _value(self) -> str:
        if self.raw_data:
            return self.raw_data[0]
        if self.data is None:
            return ""
        return db.session.scalar(sa.select(User.username).where(User.id == self.data)) or ""


class LocalTimeField(DateTimeLocalField):
    """A time in the time zone of the reader."""

    def process_data(self, value: datetime | None) -> None:
        """Set the value of the row."""
        self.moment = value
        self.data = None if value is None else local_from_utc(value, reader_zone())

    def process_formdata(self, valuelist: list[str]) -> None:
        """Set the value from the request."""
        shown = self.data and self.data.replace(second=0, microsecond=0)
        super().process_formdata(valuelist)
        if self.data is None:
            return
        # Unchanged: in the repeated hour of autumn, the local time is ambiguous.
        if self.data == shown:
            self.data = self.moment
            return
        try:
            self.data = utc_from_local(self.data, reader_zone())
        except ValueError as error:
            raise ValueError(f"This time {error}.") from error


def form_of(
    model: type[Any], columns: Iterable[str], extra: Mapping[str, Any], service_names: Mapping[str, str]
) -> type[PanelForm]:
    """Return the form class of some columns of a model.

    Args:
        model: its model.
        columns: names of columns, in the order of the form.
        extra: more fields by name, after those of the columns.
        service_names: the form's field by the service's name, where the two differ.
    """
    fields = {name: _field_of(getattr(model, name)) for name in columns}
    names = {"FORM_FIELDS": service_names}
    return cast(type[PanelForm], type(f"{model.__name__}Form", (PanelForm,), {**fields, **extra, **names}))


def label_of(name: str) -> str:
    """Return the label of a column: `school_id` → `School`."""
    return LABELS.get(name) or sentence(name.removesuffix("_id").replace("_", " "))[:-1]


def _field_of(attribute: InstrumentedAttribute[Any]) -> Any:
    column = cast(sa.Column[Any], attribute.property.columns[0])
    is_required = _is_required(column)
    validators: list[Any] = [InputRequired(REQUIRED) if is_required else Optional()]
    label, target = label_of(attribute.key), _target(column)
    if target is User:
        return LoginField(label, validators, description="A username or email address.")
    if target in CHOSEN_FROM:
        return ChosenRowField(label, validators, model=target, is_required=is_required)
    if target is not None:
        validators.append(NumberRange(1, MAX_INTEGER))
        return WholeNumberField(label, validators, description="Enter its ID.")
    return _plain_field(label, column, validators)


def _is_required(column: sa.Column[Any]) -> bool:
    if column.nullable:
        return False
    # A column that the database or a function fills is optional; a number with a default shows it.
    return column.default is None or (column.default.is_scalar and not _is_text(column))


def _default(column: sa.Column[Any]) -> Any:
    default: Any = column.default
    return default.arg if default is not None and default.is_scalar else None


def _is_text(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum)


def _plain_field(label: str, column: sa.Column[Any], validators: list[Any]) -> Any:
    default = _default(column)
    match column.type:
        case sa.Enum(enum_class=enum) if enum is not None:
            return EnumField(label, validators, enum=cast(type[StrEnum], enum), default=default)
        case sa.Boolean():
            return BooleanField(label, default=default)
        case sa.Integer():
            return WholeNumberField(label, [*validators, NumberRange(-MAX_INTEGER, MAX_INTEGER)], default=default)
        case UtcDateTime():
            return LocalTimeField(label, validators, format=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
        case sa.Date():
            return DateField(label, validators)
        case sa.String():
            return _text_field(label, column, validators)
    raise TypeError(f"{label}: no form field for {column.type!r}")


def _text_field(label: str, column: sa.Column[Any], validators: list[Any]) -> Any:
    length = cast(sa.String, column.type).length
    checks = [*validators, plain_text, *([Length(max=length)] if length else [])]
    is_long = length is None or length > ONE_LINE_CHARACTERS
    return (TextAreaField if is_long else StringField)(
        label, checks, filters=[_none_if_empty if column.nullable else _trimmed]
    )


def _none_if_empty(text: str | None) -> str | None:
    return unix_lines(text) or None


def _trimmed(text: str | None) -> str | None:
    # None, a field that was not sent, leaves the value to the column's default.
    return text and unix_lines(text)


def _target(column: sa.Column[Any]) -> type[Any] | None:
    """Return the model that a column refers to."""
    for key in column.foreign_keys:
        mappers = Base.registry.mappers
        return next(mapper.base_mapper.class_ for mapper in mappers if mapper.local_table is key.column.table)
    return None


def _id_or_none(value: Any) -> int | None:
    return int(value) if value not in (None, "", "None") else None
