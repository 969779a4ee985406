"""The decorators that declare hooks, which a slice's `hooks.py` uses, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Mapper

from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS, Subject, current_actor
from flask_belfry.changes.errors import HookError
from flask_belfry.db import Base
from flask_belfry.db.tenancy import Tenant


@dataclass(frozen=True)
class Creation:
    """A row that this transaction inserts."""

    subject: Subject
    at: datetime
    user_id: int | None
    school_id: int | None = None


@dataclass(frozen=True)
class Change:
    """A change of a tracked column of one row in this transaction.

    Args:
        id: the id of the StatusChange row that records it.
        subject: the row.
        old, new: the column's values, as text.
        at: the time, an aware datetime.
        user_id: the user; None is the system.
        school_id: the school of the row.
    """

    id: str
    subject: Subject
    old: str | None
    new: str | None
    at: datetime
    user_id: int | None
    school_id: int | None = None


CreatedHook = Callable[[Sequence[Creation]], None]
ChangedHook = Callable[[Sequence[Change]], None]


@dataclass
class TrackedModel:
    """The hooks of one model."""

    type: str
    created: list[CreatedHook] = field(default_factory=list)
    changed: dict[str, list[tuple[frozenset[str] | None, ChangedHook]]] = field(default_factory=dict)
    secret: set[str] = field(default_factory=set)

    def has_listener(self, column: str, new: str | None) -> bool:
        """Return whether a hook listens to a change of `column` to `new`."""
        return any(wanted is None or new in wanted for wanted, _ in self.changed[column])


_tracked_models: dict[type, TrackedModel] = {}
_id_types: dict[str, type] = {}


def on_created(model: type) -> Callable[[CreatedHook], CreatedHook]:
    """Call the function with the rows of `model` that a flush or a bulk insert writes, in its transaction.

    The function may use `enqueue`, `send_mails` and SQLAlchemy Core on the session's connection;
    the session itself is in the middle of a flush.
    """

    def register(function: CreatedHook) -> CreatedHook:
        _track(model).created.append(function)
        return function

    return register


def on_change(
    attribute: InstrumentedAttribute[Any], *, to: Sequence[str] | None = None
) -> Callable[[ChangedHook], ChangedHook]:
    """Call the function with the changes of a column, by flushes and bulk updates, in their transaction.

    A creation is not a change, whatever value the row is created with: use `on_created` as well where that matters.

    Args:
        attribute: the column, mapped with `active_history=True`: without it an expired attribute has no old
            value.
        to: call it for changes to one of these values only; None is all changes.

    Raises:
        HookError: the column has no `active_history`, or an `onupdate`.
    """
    hooks = _tracked_column(attribute)
    wanted = None if to is None else frozenset(str(value) for value in to)

    def register(function: ChangedHook) -> ChangedHook:
        hooks.append((wanted, function))
        return function

    return register


def record_changes(*attributes: InstrumentedAttribute[Any], secret: bool = False) -> None:
    """Record every change of these columns as a StatusChange, without calling a function.

    Args:
        attributes: the columns.
        secret: record that they changed, without the values.

    Raises:
        HookError: as `on_change`.
    """
    for attribute in attributes:
        _tracked_column(attribute)
        if secret:
            _tracked_models[cast(type, attribute.class_)].secret.add(attribute.key)


def recorded_columns(model: type) -> frozenset[str]:
    """Return the names of the columns of `model` whose changes are recorded."""
    tracked = tracked_model_of(model)
    return frozenset(tracked.changed) if tracked else frozenset()


def tracked_model_of(model: type) -> TrackedModel | None:
    """Return the hooks of `model`, or of the model that it inherits from within one table; None without hooks."""
    return next((_tracked_models[each] for each in model.__mro__ if each in _tracked_models), None)


def tracked_models_of_table(table: Any) -> list[tuple[type, TrackedModel]]:
    """Return the tracked models of a table, or of the table behind an alias."""
    while isinstance(table, sa.Alias):
        table = table.element
    return [(model, tracked) for model, tracked in _tracked_models.items() if table == sa.inspect(model).local_table]


def subject_type(model: type) -> str:
    """Return the short name of a model in subjects: `__subject_type__`, or its table's name in the singular."""
    return getattr(model, "__subject_type__", None) or sa.inspect(model).local_table.name.removesuffix("s")


def subject_of(row: object) -> Subject:
    """Return the subject of a persistent row."""
    mapper: Mapper[Any] = sa.inspect(type(row))
    (identity,) = mapper.primary_key_from_instance(row)
    return Subject(subject_type(type(row)), identity)


def recorded_subject(type_: str | None, id: str | None) -> Subject | None:
    """Return the subject that a record names, its id with the type of its model's key; None when it names none."""
    if type_ is None or id is None:
        return None
    if type_ not in _id_types:
        models = [mapper for mapper in Base.registry.mappers if len(mapper.primary_key) == 1]
        _id_types.update({subject_type(mapper.class_): mapper.primary_key[0].type.python_type for mapper in models})
    return Subject(type_, _id_types.get(type_, str)(id))


def school_column(model: Any) -> sa.ColumnElement[int | None]:
    """Return the school of a model's rows, in SQL; for models without schools, that of the current actor."""
    if issubclass(model, Tenant):
        return sa.type_coerce(model.school_id, sa.Integer)
    return sa.literal(current_actor().school_id, sa.Integer)


def school_of_row(row: object) -> int | None:
    """Return the school of a loaded row; for models without schools, that of the current actor."""
    return row.school_id if isinstance(row, Tenant) else current_actor().school_id


def _tracked_column(attribute: InstrumentedAttribute[Any]) -> list[tuple[frozenset[str] | None, ChangedHook]]:
    if not attribute.property.active_history:
        raise HookError(f"{attribute} must have mapped_column(active_history=True) to be tracked")
    (column,) = attribute.property.columns
    if column.onupdate is not None or column.server_onupdate is not None:
        raise HookError(f"{attribute} has onupdate and cannot be tracked: any update of its row would change it")
    model: Any = attribute.class_
    return _track(model).changed.setdefault(attribute.key, [])


def _track(model: type) -> TrackedModel:
    if len(sa.inspect(model).primary_key) != 1:
        raise HookError(f"{model.__name__} has a composite key: a subject is one id")
    type_ = sa.inspect(model).primary_key[0].type
    if isinstance(type_, sa.String) and not 0 < (type_.length or 0) <= SUBJECT_ID_CHARACTERS:
        raise HookError(f"{model.__name__} has a longer key than the {SUBJECT_ID_CHARACTERS} characters of a subject")
    return _tracked_models.setdefault(model, TrackedModel(subject_type(model)))
