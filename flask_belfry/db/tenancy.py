"""Whose rows a session sees: those of one school, everybody's, or nobody's. One mechanism, and no filter to remember.

A scope is set where a request's user is recognised, and where a job begins. From then on every ORM statement of the
session carries it: queries, relationship loads, `session.get`, bulk updates and deletes. Core statements on the
connection pass it by; what of them runs in a request is listed in a test, each with the reason why it is safe.
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
from sqlalchemy.orm import LoaderCallableStatus, Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PASSIVE_NO_INITIALIZE

from flask_belfry.core.errors import AppError


class TenancyError(AppError):
    """A write that would leave the school it is made in: a fault of the code, so nobody is told more than that."""

    status = 500


class Tenant:
    """What all models with rows of schools have in common. Models take one of the two below."""

    school_id: Mapped[Any] = mapped_column(sa.Integer)


class OfSchool(Tenant):
    """A mixin: each row belongs to a school."""

    school_id: Mapped[int] = mapped_column(sa.ForeignKey("schools.id"))


class OfSchoolOrSystem(Tenant):
    """A mixin for what is written about rows of any slice: None is the system's own, which admins see."""

    school_id: Mapped[int | None] = mapped_column(sa.Integer)


@dataclass(frozen=True)
class Scope:
    """The rows of one school; without one, all or none."""

    school_id: int | None = None
    sees_all: bool = False

    def admits(self, row: Tenant) -> bool:
        """Whether the row is seen in this scope."""
        return self.sees_all or (self.school_id is not None and row.school_id == self.school_id)


ALL_TENANTS = Scope(sees_all=True)
NOTHING = Scope()
# Commands, the shell and what runs in the background of a process see all.
_scope: ContextVar[Scope] = ContextVar("tenancy_scope", default=ALL_TENANTS)


def scope_of(school_id: int | None) -> Scope:
    """What is seen by what is done for a school; None is the system, which sees all."""
    return ALL_TENANTS if school_id is None else Scope(school_id)


def current_scope() -> Scope:
    """What is seen now."""
    return _scope.get()


def set_scope(scope: Scope) -> None:
    """Sets the scope for the rest of this context: called where a request begins, ends, or knows its user."""
    _scope.set(scope)


@contextmanager
def use_scope(scope: Scope) -> Iterator[None]:
    """Sets the scope for a block. `use_scope(ALL_TENANTS)` is for looking up who somebody is, and for little else."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def scoped(statement: Any) -> Any:
    """A statement with the present scope: for those that run on a connection."""
    scope = current_scope()
    return statement if scope.sees_all else statement.options(_criteria(scope.school_id))


def is_hidden(row: object) -> bool:
    """Whether the present scope hides a row that the session has loaded: it may have been loaded before."""
    return isinstance(row, Tenant) and not current_scope().admits(row)


def listen(session_class: type[Session]) -> None:
    """Puts the scope into all sessions of `session_class`. Must come before other listeners that read statements."""

    @event.listens_for(session_class, "do_orm_execute")
    def narrow(execution: ORMExecuteState) -> None:
        scope = current_scope()
        # What refreshes a row that was loaded goes by its key, and must find it.
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
    if school_id is None:  # which SQL would compare with IS: those are the system's own rows
        return with_loader_criteria(Tenant, lambda _: sa.false(), include_aliases=True)
    return with_loader_criteria(Tenant, lambda model: model.school_id == school_id, include_aliases=True)


def _has_moved(row: Tenant) -> bool:
    return bool(get_history(row, "school_id", PASSIVE_NO_INITIALIZE).added)


def _admit(scope: Scope, row: object) -> None:
    """Gives a new row without a school that of the scope. Raises TenancyError for a row of another."""
    if isinstance(row, OfSchool) and row.school_id is None and scope.school_id is not None:
        row.school_id = scope.school_id
    if isinstance(row, Tenant) and not scope.admits(row):
        raise TenancyError(f"a {type(row).__name__} of school {row.school_id} is written in the scope of {scope}")


def _check_update_by_key(execution: ORMExecuteState) -> None:
    # SQLAlchemy adds no criteria to it.
    if execution.is_update and isinstance(execution.parameters, list) and _is_of_tenant(execution):
        raise TenancyError("update(Model) with a list of rows goes past the scope: say which in a where()")


def _check_bulk_insert(execution: ORMExecuteState, scope: Scope) -> None:
    if not _is_of_tenant(execution):
        return
    rows: Any = execution.parameters
    given = [rows] if isinstance(rows, Mapping) else rows
    if not given:
        raise TenancyError("insert(Model) takes its rows as parameters: in a school's scope each is looked at")
    for row in given:
        if scope.school_id is None or row.get("school_id") != scope.school_id:
            raise TenancyError(f"a row of school {row.get('school_id')} is inserted in the scope of {scope}")


def _is_of_tenant(execution: ORMExecuteState) -> bool:
    mapper = execution.bind_mapper
    return mapper is not None and issubclass(mapper.class_, Tenant)


def visible(found: Any) -> Any:
    """What a look into the identity map found, or None when the scope hides it."""
    return None if not isinstance(found, LoaderCallableStatus) and is_hidden(found) else found
