"""The keys by which mails are searched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail.models import HAS_SUBJECT, EmailMessage, MailState
from flask_belfry.mail.recipients import check_email
from flask_belfry.mail.registry import kinds
from flask_belfry.search import Field, Index, Language, Term, recorded_values
from flask_belfry.search.language import is_like, read_number, read_uuid

LAST_CHARACTER = "\U0010ffff"


def begins_with(column: Any, text: str) -> sa.ColumnElement[bool]:
    """Return the condition that a column begins with `text`, which can use an index."""
    # A range instead of LIKE, because SQLite does not use an index for LIKE with an escape character.
    return (column >= text) & (column < text + LAST_CHARACTER)


def _of_recipient(term: Term) -> Term:
    """Search text that is a whole email address in the recipients alone, which an index has."""
    is_email = not term.key and not term.is_excluded and check_email(term.values[0]).problem is None
    return Term("to", term.values) if is_email else term


def _recipient(value: str) -> str:
    return check_email(value).email.lower()


def _subject(value: str) -> tuple[str, str | None]:
    kind, slash, id = value.partition("/")
    if not kind or (slash and not id):
        raise ValueError(value)
    return kind, id or None


def _is_subject(value: tuple[str, str | None]) -> sa.ColumnElement[bool]:
    kind, id = value
    found = EmailMessage.subject_type == kind
    return found if id is None else sa.and_(found, EmailMessage.subject_id == id)


def _is_recipient(value: str) -> sa.ColumnElement[bool]:
    return is_like(EmailMessage.recipient, value) if "*" in value else EmailMessage.recipient == value


def _is_key(value: str) -> sa.ColumnElement[bool]:
    return is_like(EmailMessage.unique_key, value) if "*" in value else EmailMessage.unique_key == value


def _matches_text(text: str) -> sa.ColumnElement[bool]:
    return sa.or_(
        begins_with(EmailMessage.recipient, _recipient(text)),
        begins_with(EmailMessage.kind, text.lower()),
        begins_with(EmailMessage.unique_key, text),
        EmailMessage.last_error.icontains(text, autoescape=True),
    )


def _kinds_like(_: str, patterns: Sequence[str]) -> Collection[str]:
    # The names are those of the code, also of earlier releases, and no secret; those of one school would need a scan.
    with use_scope(ALL_TENANTS):
        return recorded_values(db.session(), EmailMessage.kind, patterns)


def _tenant(value: str) -> int | None:
    return None if value == "system" else read_number(value)


_STATES = [state.value for state in MailState]

MAILS = Language(
    model=EmailMessage,
    fields={
        "state": Field(
            f"one of {', '.join(_STATES)}",
            read=MailState,
            column="state",
            domain=frozenset(MailState),
            suggest=lambda: _STATES,
        ),
        "kind": Field(
            "the kind of a mail; * stands for any characters, as in notification-*",
            column="kind",
            has_patterns=True,
            suggest=lambda: [kind.name for kind in kinds()],
        ),
        "to": Field(
            "an email address; * stands for any characters, as in *@example.org",
            read=_recipient,
            column="recipient",
            is_indexed=lambda value: "*" not in value,
            condition=_is_recipient,
        ),
        "subject": Field(
            "what the mail is about: a type, or a type and an id, such as reservation or reservation/42",
            read=_subject,
            # Types are the names of tables in the singular.
            spellings=lambda subject: {subject, (subject[0].lower(), subject[1])},
            column="subject",
            is_indexed=lambda subject: subject[1] is not None,
            condition=_is_subject,
        ),
        "error": Field(
            "a part of the last error",
            condition=lambda text: EmailMessage.last_error.icontains(text, autoescape=True),
        ),
        "reply": Field(
            "a part of the reply with which the server accepted it",
            condition=lambda text: EmailMessage.reply.icontains(text, autoescape=True),
        ),
        "key": Field(
            "the unique key; * stands for any characters",
            column="unique_key",
            is_indexed=lambda value: "*" not in value,
            condition=_is_key,
        ),
        "tenant": Field("the number of a school, or system", read=_tenant, column="school_id"),
        "user": Field(
            "the number of the user who caused it",
            read=read_number,
            condition=lambda user_id: EmailMessage.user_id == user_id,
        ),
        "job": Field("the id of its job", read=read_uuid, column="job_id"),
        "change": Field("the id of the change that caused it", read=read_uuid, column="change_id"),
        "id": Field("the id of a mail", read=read_uuid, column="id"),
    },
    aliases=("state", "kind", "to", "subject", "since", "text"),
    rewritten=_of_recipient,
    text=_matches_text,
    values_like=_kinds_like,
    expressions={"subject": sa.tuple_(EmailMessage.subject_type, EmailMessage.subject_id)},
    indexes=(
        Index("sqlite_autoindex_email_messages_1", ("id",), is_narrow=True),
        Index("sqlite_autoindex_email_messages_2", ("unique_key",), is_narrow=True),
        Index("ix_email_messages_job_id", ("job_id",), is_narrow=True),
        Index("ix_email_messages_change_id", ("change_id",), is_narrow=True),
        Index("ix_email_messages_subject", ("subject",), is_narrow=True, condition=HAS_SUBJECT),
        Index("ix_email_messages_recipient", ("recipient",), is_narrow=True),
        Index("ix_email_messages_school_id_state_id", ("school_id", "state")),
        Index("ix_email_messages_state_id", ("state",)),
        Index("ix_email_messages_kind_id", ("kind",)),
        Index("ix_email_messages_school_id_id", ("school_id",)),
    ),
)

parse = MAILS.parse
