"""The scope of a session: the rows of one school, of all schools, or none.

A scope is set where a request's user is known, and where a job begins. From then on it limits every ORM statement of
the session: queries, relationship loads, `session.get`, bulk updates and deletes. Core statements on the connection
bypass it; a test lists those that run in a request, each with the reason why it is safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from flask_belfry.core.errors import AppError


class TenancyError(AppError):
    """A write outside of the current scope: a fault of the code, of which users see no details."""

    status = 500


class Tenant:
    """The base of the two mixins below, for models whose rows belong to schools."""

    school_id: Mapped[Any] = mapped_column(sa.Integer)


class OfSchool(Tenant):
    """A mixin: each row belongs to a school."""

    school_id: Mapped[int] = mapped_column(sa.ForeignKey("schools.id"))


class OfSchoolOrSystem(Tenant):
    """A mixin for records about rows of any slice: None is a record of the system, which admins see."""

    school_id: Mapped[int | None] = mapped_column(sa.Integer)


@dataclass(frozen=True)
class Scope:
    """The rows of one school; without one, all or none."""

    school_id: int | None = None
    sees_all: bool = False

    def admits(self, row: Tenant) -> bool:
        """Return whether the scope includes the row."""
        return self.sees_all or (self.school_id is not None and row.school_id == self.school_id)


ALL_TENANTS = Scope(sees_all=True)
NOTHING = Scope()
# Commands, the shell and background threads of a process see all rows.
_scope: ContextVar[Scope] = ContextVar("tenancy_scope", default=ALL_TENANTS)


def scope_of(school_id: int | None) -> Scope:
    """Return the scope of a school; of None, which is the system, all rows."""
    return ALL_TENANTS if school_id is None else Scope(school_id)


def current_scope() -> Scope:
    """Return the current scope."""
    return _scope.get()


def set_scope(scope: Scope) -> None:
    """Set the scope for the rest of this context: called where a request begins, ends, or knows its user."""
    _scope.set(scope)


@contextmanager
def use_scope(scope: Scope) -> Iterator[None]:
    """Set the scope for a block. `use_scope(ALL_TENANTS)` is for identifying a user, and for little else."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def scoped(statement: Any) -> Any:
    """Return a statement with the current scope, for those that run on a connection."""
    scope = current_scope()
    return statement if scope.sees_all else statement.options(_criteria(scope.school_id))


def listen(session_class: type[Session]) -> None:
    """Apply the scope in all sessions of `session_class`. Call it before other listeners that read statements."""

    @event.listens_for(session_class, "do_orm_execute")
    def narrow(execution: ORMExecuteState) -> None:
        scope = current_scope()
        # A refresh of a loaded row uses its key and must find it.
        if not scope.sees_all and not execution.is_column_load:
            _narrow(execution, scope)

    @event.listens_for(session_class, "before_flush")
    def check(session: Session, *_: object) -> None:
        scope = current_scope()
        if scope.sees_all:
            return
        moved = [row for row in session.dirty if isinstance(row, Tenant) and _has_moved(row)]
        for row in [*session.new, *moved]:
            _admit(scope, row)


def _narrow(execution: ORMExecuteState, scope: Scope) -> None:
    if execution.is_insert:
        _check_bulk_insert(execution, scope)
    elif execution.is_select or execution.is_update or execution.is_delete:
        _check_update_by_key(execution)
        execution.statement = scoped(execution.statement)


@lru_cache(maxsize=1_000)
def _criteria(school_id: int | None) -> Any:
    if school_id is None:  # SQL would compare it with IS, which finds the rows of the system
        return with_loader_criteria(Tenant, lambda _: sa.false(), include_aliases=True)
    return with_loader_criteria(Tenant, lambda model: model.school_id == school_id, include_aliases=True)


def _has_moved(row: Tenant) -> bool:
    return bool(get_history(row, "school_id", PASSIVE_NO_INITIALIZE).added)


def _admit(scope: Scope, row: object) -> None:
    """Set the school of a new row that has none. Raises TenancyError for a row of another school."""
    if isinstance(row, OfSchool) and row.school_id is None and scope.school_id is not None:
        row.school_id = scope.school_id
    if isinstance(row, Tenant) and not scope.admits(row):
        raise TenancyError(f"a {type(row).__name__} of school {row.school_id} is written in the scope of {scope}")


def _check_update_by_key(execution: ORMExecuteState) -> None:
    # SQLAlchemy adds no criteria to it.
    if execution.is_update and isinstance(execution.parameters, list) and _is_of_tenant(execution):
        raise TenancyError("update(Model) with a list of rows bypasses the scope: use where()")


def _check_bulk_insert(execution: ORMExecuteState, scope: Scope) -> None:
    if not _is_of_tenant(execution):
        return
    rows: Any = execution.parameters
    given = [rows] if isinstance(rows, Mapping) else rows
    if not given:
        raise TenancyError("in a school's scope, insert(Model) must have its rows as parameters: each is checked")
    for row in given:
        if scope.school_id is None or row.get("school_id") != scope.school_id:
            raise TenancyError(f"a row of school {row.get('school_id')} is inserted in the scope of {scope}")


def _is_of_tenant(execution: ORMExecuteState) -> bool:
    mapper = execution.bind_mapper
    return mapper is not None and issubclass(mapper.class_, Tenant)


def visible(found: Any) -> Any:
    """Return what was found in the identity map, or None for a row that was loaded before a scope that hides it."""
    is_hidden = isinstance(found, Tenant) and not current_scope().admits(found)
    return None if is_hidden else found
