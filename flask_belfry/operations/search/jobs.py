"""The keys by which jobs are searched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.models import FINGERPRINT_CHARACTERS, HAS_FAILED, HAS_SUBJECT
from flask_belfry.outbox.registry import QUEUES, definitions
from flask_belfry.search import Field, Index, Language, recorded_values
from flask_belfry.search.language import is_like, read_number, read_uuid

# The most recent failures whose errors are proposed.
_RECENT_FAILURES = 500


def _one_of(values: Sequence[str]) -> Any:
    def read(value: str) -> str:
        if value not in values:
            raise ValueError(value)
        return value

    return read


def _tenant(value: str) -> int | None:
    return None if value == "system" else read_number(value)


def _subject(value: str) -> tuple[str, str | None]:
    kind, slash, id = value.partition("/")
    if not kind or (slash and not id):
        raise ValueError(value)
    return kind, id or None


def _is_subject(value: tuple[str, str | None]) -> sa.ColumnElement[bool]:
    kind, id = value
    found = JobRecord.subject_type == kind
    return found if id is None else sa.and_(found, JobRecord.subject_id == id)


def _matches_text(text: str) -> sa.ColumnElement[bool]:
    columns = (JobRecord.name, JobRecord.subject_type, JobRecord.error_type, JobRecord.error_message)
    found = [column.icontains(text, autoescape=True) for column in columns]
    return sa.or_(*found, JobRecord.subject_id == text)


class _ArgumentText(FunctionElement[str]):
    """An argument of a job as text: `42`, `true`, `abc`; NULL when it has none of this name, or null."""

    type = sa.Text()
    inherit_cache = True


@compiles(_ArgumentText, "postgresql")
def _argument_postgresql(element: _ArgumentText, compiler: SQLCompiler, **options: Any) -> str:
    args, name = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({args} ->> ({name})::text)"


@compiles(_ArgumentText, "sqlite")
def _argument_sqlite(element: _ArgumentText, compiler: SQLCompiler, **options: Any) -> str:
    args, name = (compiler.process(clause, **options) for clause in element.clauses)
    # `->>` makes numbers of booleans.
    path = f"""('$."' || {name} || '"')"""
    kind = f"json_type({args}, {path})"
    return f"CASE WHEN {kind} IN ('true', 'false') THEN {kind} ELSE CAST({args} ->> {path} AS TEXT) END"


def _argument(key: str) -> Field | None:
    prefix, _, name = key.partition(".")
    if prefix != "args" or not name or "." in name:
        return None
    text = _ArgumentText(JobRecord.args, sa.literal(name))
    # What is masked where it is shown cannot be guessed by searching.
    hidden_in = sorted(each.name for each in definitions() if name in each.secrets)

    def condition(value: str) -> sa.ColumnElement[bool]:
        found = is_like(text, value) if "*" in value else text == value
        return sa.and_(JobRecord.name.not_in(hidden_in), found) if hidden_in else found

    return Field(
        "the value of the argument, such as 42, true or text; * stands for any characters", condition=condition
    )


def _names_like(_: str, patterns: Sequence[str]) -> Collection[str]:
    # Job names are not secret, and listing those of one school would need a scan.
    with use_scope(ALL_TENANTS):
        return recorded_values(db.session(), JobRecord.name, patterns)


def _recent_errors() -> Collection[str]:
    recent = sa.select(JobRecord.error_type).where(
        JobRecord.state == JobState.FAILED, JobRecord.error_type.is_not(None)
    )
    return sorted(
        {str(name) for name in db.session.scalars(recent.order_by(JobRecord.id.desc()).limit(_RECENT_FAILURES))}
    )


_STATES = [state.value for state in JobState]

JOBS = Language(
    model=JobRecord,
    fields={
        "state": Field(
            f"one of {', '.join(_STATES)}",
            read=JobState,
            column="state",
            domain=frozenset(JobState),
            suggest=lambda: _STATES,
        ),
        "name": Field(
            "the name of a job; * stands for any characters, as in reservations.*",
            column="name",
            has_patterns=True,
            suggest=lambda: sorted(each.name for each in definitions()),
        ),
        "queue": Field(
            f"one of {', '.join(QUEUES)}",
            read=_one_of(QUEUES),
            condition=lambda queue: JobRecord.queue == queue,
            suggest=lambda: QUEUES,
        ),
        "subject": Field(
            "what the job is about: a type, or a type and an id, such as reservation or reservation/42",
            read=_subject,
            # Types are the names of tables in the singular.
            spellings=lambda subject: {subject, (subject[0].lower(), subject[1])},
            column="subject",
            is_indexed=lambda subject: subject[1] is not None,
            condition=_is_subject,
        ),
        "tenant": Field("the number of a school, or system", read=_tenant, column="school_id"),
        "user": Field("the number of a user", read=read_number, condition=lambda user_id: JobRecord.user_id == user_id),
        "worker": Field(
            "the name of a worker; * stands for any characters",
            condition=lambda name: is_like(JobRecord.worker, name) if "*" in name else JobRecord.worker == name,
        ),
        "error": Field(
            "the type of an error, such as ConnectionRefusedError; * stands for any characters",
            condition=lambda name: is_like(JobRecord.error_type, name) if "*" in name else JobRecord.error_type == name,
            suggest=_recent_errors,
        ),
        "batch": Field("the id of a batch", read=read_uuid, column="batch_id"),
        "parent": Field("the id of the job that enqueued it", read=read_uuid, column="parent_id"),
        "id": Field("the id of a job", read=read_uuid, column="id"),
        "fingerprint": Field(
            f"the {FINGERPRINT_CHARACTERS} characters that a group of failures has", column="fingerprint"
        ),
    },
    nested=_argument,
    nested_keys=("args.NAME",),
    aliases=("state", "name", "queue", "subject", "batch", "since", "text"),
    text=_matches_text,
    values_like=_names_like,
    expressions={"subject": sa.tuple_(JobRecord.subject_type, JobRecord.subject_id)},
    indexes=(
        Index("sqlite_autoindex_job_records_1", ("id",), is_narrow=True),
        Index("ix_job_records_parent", ("parent_id",), is_narrow=True),
        Index("ix_job_records_subject", ("subject",), is_narrow=True, condition=HAS_SUBJECT),
        Index("ix_job_records_batch", ("batch_id", "state"), is_narrow=True),
        Index("ix_job_records_fingerprint", ("fingerprint",), is_narrow=True, condition=HAS_FAILED),
        Index("ix_job_records_school_id_state_id", ("school_id", "state")),
        Index("ix_job_records_state_id", ("state",)),
        Index("ix_job_records_name_id", ("name",)),
        Index("ix_job_records_school_id_id", ("school_id",)),
    ),
)

parse = JOBS.parse
