"""Hooks for bulk statements on tracked models, for which SQLAlchemy fires no flush event.

A statement on a model calls its hooks. A write to the same table in another form is refused: as a Core statement, in
a CTE, with `from_statement`, or as an upsert, which does not return which rows it changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.sql import visitors
from sqlalchemy.util import LRUCache

from flask_belfry.changes.actor import current_actor
from flask_belfry.changes.errors import HookError
from flask_belfry.changes.listeners import (
    TrackedModel,
    school_column,
    school_of_row,
    subject_of,
    tracked_model_of,
    tracked_models_of_table,
)
from flask_belfry.changes.models import StatusChange
from flask_belfry.changes.recording import ColumnDifferences, Difference, as_text, record_matching, stored_as_text
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import Tenant, scoped

CHUNK_ROWS = 1_000
_reads: LRUCache[Any, bool] = LRUCache(1_000)
UPSERTS = (postgresql.dml.OnConflictDoUpdate, sqlite.dml.OnConflictDoUpdate)


class DispatchChanges(Protocol):
    """Records differences of columns and calls their hooks."""

    def __call__(self, session: Session, found: Iterable[ColumnDifferences], batch_id: str | None = None) -> None: ...


class DispatchCreations(Protocol):
    """Calls the hooks for created rows."""

    def __call__(self, session: Session, model: type, rows: Sequence[tuple[Any, int | None]]) -> None: ...


def check(execution: ORMExecuteState) -> None:
    """Raise HookError for a write to a tracked table whose hooks would not be called."""
    statement: Any = execution.statement
    if execution.is_select and _only_reads(statement):
        return
    fires = execution.is_orm_statement and not execution.is_from_statement
    for part in visitors.iterate(statement):
        if isinstance(part, sa.Update) and not (fires and part is statement):
            _check_update(part, _first_row(execution) if part is statement else {})
        elif isinstance(part, sa.Insert):
            _check_insert(part, fires and part is statement)


def _only_reads(statement: Any) -> bool:
    """Return whether a query has no DML in it, as a CTE may. Each form of a query is traversed once."""
    # SQLAlchemy's key of the compiled statement: to generate it takes a tenth of the time of a traversal.
    key = statement._generate_cache_key()  # noqa: SLF001
    if key is None:
        return False
    known = _reads.get(key.key)
    if known is None:
        known = _reads[key.key] = not any(isinstance(part, sa.UpdateBase) for part in visitors.iterate(statement))
    return known


def _check_update(part: sa.Update, parameters: Mapping[str, Any]) -> None:
    for model, tracked in tracked_models_of_table(part.table):
        for column in sorted(_assigned(model, part, parameters).keys() & tracked.changed):
            way = f"use session.execute(update({model.__name__})…)"
            raise HookError(f"this update of {column} fires no hooks of {model.__name__}: {way}")


def _check_insert(part: sa.Insert, fires: bool) -> None:
    for model, tracked in tracked_models_of_table(part.table):
        name = model.__name__
        if _is_upsert(part):
            raise HookError(
                f"insert({name}) … on conflict do update cannot be tracked: it does not return which rows are new"
            )
        if tracked.created and not fires:
            raise HookError(f"this insert fires no hooks of {name}: use session.execute(insert({name})…)")


def update(execution: ORMExecuteState, dispatch: DispatchChanges) -> sa.Result[Any] | None:
    """Call the hooks of a bulk `update()`: read the matching ids and old values, then run the statement.

    Returns:
        the statement's result, or None when no column is tracked and SQLAlchemy runs the statement itself.
    """
    model, tracked = _tracked_model_of_statement(execution)
    if model is None or tracked is None or not tracked.changed or execution.is_from_statement:
        return None
    session: Session = execution.session
    session.flush()
    if isinstance(execution.parameters, list):  # session.execute(update(Model), [{"id": 1, "status": …}, …])
        return _update_by_key(execution, model, tracked, dispatch)
    statement: Any = execution.statement
    parameters = _first_row(execution)
    assigned = _assigned(model, statement, parameters)
    for column in [name for name in assigned if name in tracked.changed]:
        value = assigned[column]
        if isinstance(value, sa.BindParameter):  # bound to this statement's SET clause: the query needs its own
            value = parameters.get(value.key, value.effective_value)
        statement = _fire(session, model, tracked, column, value, statement, dispatch)
    return _run(execution, model, statement)


def insert(execution: ORMExecuteState, dispatch: DispatchCreations) -> sa.Result[Any] | None:
    """Call the hooks of a bulk `insert()` for the rows that it wrote.

    Returns:
        the statement's result, or None when the model is not tracked.
    """
    model, tracked = _tracked_model_of_statement(execution)
    if model is None or tracked is None or not tracked.created:
        return None
    key = _key(model)
    statement: Any = execution.statement
    needed = ["school_id", key.key] if issubclass(model, Tenant) else [key.key]
    returned = [column.key for column in statement.exported_columns]
    if not returned:
        statement = statement.returning(*(getattr(model, name) for name in needed))
    elif missing := set(needed) - set(returned):
        raise HookError(f"insert({model.__name__}).returning(…) must return {missing.pop()}: its hooks need it")
    frozen = execution.invoke_statement(statement).freeze()
    if not set(needed) <= set(frozen().keys()):  # returning(Model): the columns are those of an object
        for rows in frozen().scalars(model.__name__).partitions(CHUNK_ROWS):
            dispatch(execution.session, model, [(subject_of(row).id, school_of_row(row)) for row in rows])
        return frozen()
    for chunk in frozen().columns(*needed).partitions(CHUNK_ROWS):
        dispatch(execution.session, model, [(row[-1], _school_of_inserted(row)) for row in chunk])
    return frozen()


def _update_by_key(
    execution: ORMExecuteState, model: type, tracked: TrackedModel, dispatch: DispatchChanges
) -> sa.Result[Any]:
    statement, rows, session = cast(sa.Update, execution.statement), cast(Any, execution.parameters), execution.session
    if statement.whereclause is not None or _assignments(statement):
        raise HookError(
            f"update({model.__name__}) with a list of rows cannot be tracked together with where() or values()"
        )
    for column in tracked.changed:
        for chunk in _differences_by_key(session, model, column, rows):
            dispatch(session, [ColumnDifferences(tracked, column, chunk)])
    return execution.invoke_statement()


def _fire(
    session: Session,
    model: type,
    tracked: TrackedModel,
    column: str,
    value: Any,
    statement: Any,
    dispatch: DispatchChanges,
) -> Any:
    """Record the changes that `statement` will make to one column, and call the hooks that listen to them.

    Returns:
        the statement to run.
    """
    key, attribute, batch_id = _key(model), getattr(model, column), new_id()
    differs = attribute.is_distinct_from(value)
    school = school_column(model)
    query = sa.select(key, attribute, sa.type_coerce(value, attribute.type), school).where(differs)
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    if len(query.get_final_froms()) > 1:
        raise HookError(f"update({model.__name__}) of {column} over several tables cannot be tracked: use a subquery")
    query = query.with_for_update()
    is_constant = not isinstance(value, sa.ClauseElement)
    if (
        is_constant
        and column not in tracked.secret
        and stored_as_text(attribute.type)
        and not tracked.has_listener(column, as_text(value))
    ):
        old = sa.cast(attribute, sa.String)
        record_matching(session, tracked, column, query.with_only_columns(key, old, school), value, batch_id)
    else:
        for chunk in _chunks(session, query):
            dispatch(session, [ColumnDifferences(tracked, column, chunk)], batch_id)
    if session.get_bind().dialect.name != "postgresql":
        return statement  # SQLite: the query above has taken the only write lock, so the same rows match.
    recorded = sa.select(sa.cast(StatusChange.subject_id, key.type)).where(StatusChange.batch_id == batch_id)
    return statement.where(sa.or_(sa.not_(differs), key.in_(recorded)))


def _run(execution: ORMExecuteState, model: type, statement: Any) -> sa.Result[Any]:
    """Run the statement, and expire the loaded rows of `model` unless the caller sets `synchronize_session`.

    SQLAlchemy would fetch the ids of all changed rows, maybe millions, to find the few that are loaded.
    """
    if execution.execution_options.get("synchronize_session", "auto") != "auto":
        return execution.invoke_statement(statement)
    result = execution.invoke_statement(statement, execution_options={"synchronize_session": False})
    for row in execution.session.identity_map.values():
        if isinstance(row, model):
            execution.session.expire(row)
    return result


def _chunks(session: Session, query: sa.Select[*tuple[Any, ...]]) -> Iterator[list[Difference]]:
    result = session.connection().execute(scoped(query), execution_options={"yield_per": CHUNK_ROWS})
    for rows in result.partitions(CHUNK_ROWS):
        yield [Difference(*row) for row in rows]


def _tracked_model_of_statement(execution: ORMExecuteState) -> tuple[type, TrackedModel | None] | tuple[None, None]:
    mapper = execution.bind_mapper
    return (None, None) if mapper is None else (mapper.class_, tracked_model_of(mapper.class_))


def _first_row(execution: ORMExecuteState) -> Mapping[str, Any]:
    """Return the parameters of the statement; of several rows, which have the same names, the first."""
    given: Any = execution.parameters
    return (given[0] if isinstance(given, list) else given) or {}


def _is_upsert(statement: sa.Insert) -> bool:
    replaces = any("REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes)  # noqa: SLF001
    return replaces or any(isinstance(part, UPSERTS) for part in visitors.iterate(statement))


def _assigned(model: type, statement: sa.Update, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an UPDATE sets, by the model's attributes: also where it names the columns of the table."""
    mapper: Any = sa.inspect(model)
    assigned: dict[str, Any] = {}
    for name, value in [*_assignments(statement).items(), *parameters.items()]:
        column = mapper.local_table.c.get(name) if isinstance(name, str) else name
        is_mapped = column is not None and column in mapper.columns.values()
        assigned[mapper.get_property_by_column(column).key if is_mapped else str(name)] = value
    return assigned


def _assignments(statement: Any) -> Mapping[Any, Any]:
    # SQLAlchemy has no public API for the values of an UPDATE before it is compiled.
    return statement._values or {}  # noqa: SLF001


def _differences_by_key(
    session: Session, model: type, column: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[list[Difference]]:
    key, attribute = _key(model), getattr(model, column)
    wanted = {row[key.key]: row[column] for row in rows if column in row}
    remaining = iter(wanted)
    while ids := list(islice(remaining, CHUNK_ROWS)):
        query = sa.select(key, attribute, school_column(model)).where(key.in_(ids)).with_for_update()
        found = session.connection().execute(query)
        yield [Difference(id, old, wanted[id], school_id) for id, old, school_id in found if old != wanted[id]]


def _school_of_inserted(row: Sequence[Any]) -> int | None:
    return row[0] if len(row) > 1 else current_actor().school_id


def _key(model: type) -> Any:
    mapper = sa.inspect(model)
    return mapper.get_property_by_column(mapper.primary_key[0]).class_attribute
