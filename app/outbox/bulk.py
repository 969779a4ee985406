"""Bulk statements on watched models: SQLAlchemy fires no flush event for them, so they are seen before they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import ORMExecuteState, Session

from app.columns import new_id
from app.outbox.changes import Watch, school_column, watch_of
from app.outbox.errors import HookError
from app.outbox.models import StatusChange
from app.outbox.origin import current_origin
from app.outbox.recording import Difference, as_text, record_matching, stored_as_text
from app.tenancy import Tenant, narrowed

CHUNK_ROWS = 1_000
UPSERTS = (postgresql.dml.OnConflictDoUpdate, sqlite.dml.OnConflictDoUpdate)


class DispatchChanges(Protocol):
    """Records differences (id, old, new) of a column and calls its hooks."""

    def __call__(
        self,
        session: Session,
        model: type,
        column: str,
        differences: Iterable[Difference],
        batch_id: str | None = None,
    ) -> None: ...


class DispatchCreations(Protocol):
    """Calls the hooks for created rows."""

    def __call__(self, session: Session, model: type, rows: Sequence[tuple[Any, int | None]]) -> None: ...


def update(execution: ORMExecuteState, dispatch: DispatchChanges) -> sa.Result[Any] | None:
    """Fires the hooks of a bulk `update()`: reads the matching ids and old values, then runs the statement.

    Returns:
        the statement's result, or None when nothing is watched and SQLAlchemy shall go on by itself.
    """
    model, watch = _watched(execution)
    if model is None or watch is None or not watch.changed:
        return None
    session: Session = execution.session
    session.flush()
    if _is_update_by_key(execution):
        rows: Any = execution.parameters
        for column in watch.changed:
            for chunk in _differences_by_key(session, model, column, rows):
                dispatch(session, model, column, chunk)
        return execution.invoke_statement()
    statement: Any = execution.statement
    parameters = execution.parameters if isinstance(execution.parameters, Mapping) else {}
    for column, value in _new_values(execution, watch).items():
        if isinstance(value, sa.BindParameter):  # bound to this statement's SET clause: the query needs its own
            value = parameters.get(value.key, value.effective_value)
        statement = _fire(session, model, watch, column, value, statement, dispatch)
    return _run(execution, model, statement)


def insert(execution: ORMExecuteState, dispatch: DispatchCreations) -> sa.Result[Any] | None:
    """Fires the hooks of a bulk `insert()` for the rows it wrote.

    Returns:
        the statement's result, or None when nothing is watched.
    """
    model, watch = _watched(execution)
    if model is None or watch is None or not watch.created:
        return None
    key = _key(model)
    statement: Any = execution.statement
    if isinstance(getattr(statement, "_post_values_clause", None), UPSERTS):
        raise HookError(f"insert({model.__name__}) … on conflict do update cannot be watched: which rows are new?")
    needed = ["school_id", key.key] if issubclass(model, Tenant) else [key.key]
    returned = [column.key for column in statement.exported_columns]
    if not returned:
        statement = statement.returning(*(getattr(model, name) for name in needed))
    elif missing := set(needed) - set(returned):
        raise HookError(f"insert({model.__name__}).returning(…) must return {missing.pop()}: its hooks need it")
    frozen = execution.invoke_statement(statement).freeze()
    for chunk in frozen().columns(*needed).partitions(CHUNK_ROWS):
        dispatch(execution.session, model, [(row[-1], _school_of_inserted(row)) for row in chunk])
    return frozen()


def _fire(
    session: Session, model: type, watch: Watch, column: str, value: Any, statement: Any, dispatch: DispatchChanges
) -> Any:
    """Records the changes that `statement` will make to one column, and dispatches them if a hook hears them.

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
        raise HookError(f"update({model.__name__}) of {column} over several tables cannot be watched: use a subquery")
    query = query.with_for_update()
    is_constant = not isinstance(value, sa.ClauseElement)
    if (
        is_constant
        and column not in watch.secret
        and stored_as_text(attribute.type)
        and not watch.hears(column, as_text(value))
    ):
        old = sa.cast(attribute, sa.String)
        record_matching(session, watch, column, query.with_only_columns(key, old, school), value, batch_id)
    else:
        for chunk in _chunks(session, query):
            dispatch(session, model, column, chunk, batch_id)
    if session.get_bind().dialect.name != "postgresql":
        return statement  # SQLite: this transaction holds the only write lock, so the same rows match.
    recorded = sa.select(sa.cast(StatusChange.subject_id, key.type)).where(StatusChange.batch_id == batch_id)
    return statement.where(sa.or_(sa.not_(differs), key.in_(recorded)))


def _run(execution: ORMExecuteState, model: type, statement: Any) -> sa.Result[Any]:
    """Runs the statement; what the session has loaded of `model` is then read anew, unless the caller wants otherwise.

    Left to itself SQLAlchemy fetches the ids of all rows that changed, maybe millions, to find the few it has loaded.
    """
    if execution.execution_options.get("synchronize_session", "auto") != "auto":
        return execution.invoke_statement(statement)
    result = execution.invoke_statement(statement, execution_options={"synchronize_session": False})
    for row in execution.session.identity_map.values():
        if isinstance(row, model):
            execution.session.expire(row)
    return result


def _chunks(session: Session, query: sa.Select[*tuple[Any, ...]]) -> Iterator[list[Difference]]:
    result = session.connection().execute(narrowed(query), execution_options={"yield_per": CHUNK_ROWS})
    for rows in result.partitions(CHUNK_ROWS):
        yield [Difference(*row) for row in rows]


def _watched(execution: ORMExecuteState) -> tuple[type, Watch | None] | tuple[None, None]:
    mapper = execution.bind_mapper
    return (None, None) if mapper is None else (mapper.class_, watch_of(mapper.class_))


def _is_update_by_key(execution: ORMExecuteState) -> bool:
    # session.execute(update(Model), [{"id": 1, "status": …}, …])
    return isinstance(execution.parameters, list) and getattr(execution.statement, "whereclause", None) is None


def _new_values(execution: ORMExecuteState, watch: Watch) -> dict[str, Any]:
    assigned: dict[str, Any] = {
        column if isinstance(column, str) else column.key: value
        for column, value in _assignments(execution.statement).items()
    }
    if isinstance(execution.parameters, Mapping):
        assigned |= execution.parameters
    return {column: value for column, value in assigned.items() if column in watch.changed}


def _assignments(statement: Any) -> Mapping[Any, Any]:
    # SQLAlchemy offers no other way to the values of an UPDATE before it is compiled.
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
    return row[0] if len(row) > 1 else current_origin().school_id


def _key(model: type) -> Any:
    mapper = sa.inspect(model)
    return mapper.get_property_by_column(mapper.primary_key[0]).class_attribute
