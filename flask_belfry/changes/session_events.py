"""Session listeners that find created rows and changed columns, record the changes, and call the hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from flask_belfry.changes import bulk
from flask_belfry.changes.actor import Subject, about, current_actor
from flask_belfry.changes.errors import HookError
from flask_belfry.changes.listeners import Creation, school_of_row, subject_of, tracked_model_of
from flask_belfry.changes.recording import ColumnDifferences, Difference, record
from flask_belfry.changes.sessions import writing_to
from flask_belfry.core.clock import utc_now


def listen(session_class: type[Session]) -> None:
    """Register the listeners on all sessions of `session_class`."""

    event.listen(session_class, "before_flush", _check_values)

    @event.listens_for(session_class, "after_flush")
    def notice(session: Session, flush: UOWTransaction) -> None:
        for model, rows in _by_tracked_model(session.new):
            dispatch_creations(session, model, [(subject_of(row).id, school_of_row(row)) for row in rows])
        if found := list(_changes(session.dirty)):
            dispatch_changes(session, found)

    @event.listens_for(session_class, "do_orm_execute")
    def notice_bulk(execution: ORMExecuteState) -> sa.Result[Any] | None:
        bulk.check(execution)
        if execution.is_update:
            return bulk.update(execution, dispatch_changes)
        if execution.is_insert:
            return bulk.insert(execution, dispatch_creations)
        return None


def dispatch_creations(session: Session, model: type, rows: Sequence[tuple[Any, int | None]]) -> None:
    """Call the hooks for created rows, given by id and school."""
    tracked = tracked_model_of(model)
    if tracked is None or not tracked.created or not rows:
        return
    actor, now = current_actor(), utc_now()
    creations = [Creation(Subject(tracked.type, id), now, actor.user_id, school_id) for id, school_id in rows]
    with writing_to(session), about({creation.subject: creation.school_id for creation in creations}):
        for hook in tracked.created:
            hook(creations)


def dispatch_changes(session: Session, found: Iterable[ColumnDifferences], batch_id: str | None = None) -> None:
    """Record the changes of columns with one insert, and call the hooks of each column, once for all of its changes."""
    for tracked, column, changes in record(session, found, batch_id):
        with writing_to(session), about({change.subject: change.school_id for change in changes}):
            for wanted, hook in tracked.changed.get(column, []):
                chosen = changes if wanted is None else [change for change in changes if change.new in wanted]
                if chosen:
                    hook(chosen)


def _changes(rows: Iterable[object]) -> Iterator[ColumnDifferences]:
    """Yield the changes of tracked columns, by model and column."""
    for model, of_model in _by_tracked_model(rows):
        tracked = tracked_model_of(model)
        for column in _tracked_columns(model):
            if tracked and (differences := _differences(of_model, column)):
                yield ColumnDifferences(tracked, column, differences)


def _check_values(session: Session, *_: object) -> None:
    """Raise HookError where a tracked column is set to an expression: a flush does not return its value."""
    for row in session.dirty:
        values, name = sa.inspect(row).dict, type(row).__name__
        for column in _tracked_columns(type(row)):
            if isinstance(values.get(column), sa.ClauseElement):
                raise HookError(f"{name}.{column} is tracked: set an expression with session.execute(update({name})…)")


def _tracked_columns(model: type) -> Iterable[str]:
    tracked = tracked_model_of(model)
    return tracked.changed if tracked else ()


def _by_tracked_model(rows: Iterable[object]) -> list[tuple[type, list[object]]]:
    grouped: dict[type, list[object]] = defaultdict(list)
    for row in rows:
        if tracked_model_of(type(row)) is not None:
            grouped[type(row)].append(row)
    return list(grouped.items())


def _differences(rows: Iterable[object], column: str) -> list[Difference]:
    found: list[Difference] = []
    for row in rows:
        history = get_history(row, column, PASSIVE_NO_INITIALIZE)
        # session.dirty also contains rows whose attribute was set to its current value.
        old = history.deleted[0] if history.deleted else None
        if history.added and history.added[0] != old:
            found.append(Difference(subject_of(row).id, old, history.added[0], school_of_row(row)))
    return found
