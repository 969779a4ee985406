"""`Idempotency-Key`: a POST that a client repeats, because the response was lost, is executed once.

The header is that of the IETF draft (draft-ietf-httpapi-idempotency-key-header-07). The response is stored in the
transaction of the changes: a crash leaves both or neither. Error responses are not stored: they have no effect, so
a repeated request is safe.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

import sqlalchemy as sa
from flask import Response, current_app, request
from flask_login import current_user
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.personal_data import Part, Person, register, rows_of
from flask_belfry.core.access import is_public
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import commits_held, db
from flask_belfry.db.columns import UtcDateTime

View = Callable[..., Any]

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARACTERS = 255
KEY_PATTERN = f"^[!-~]{{1,{MAX_KEY_CHARACTERS}}}$"
KEEP = timedelta(hours=24)
# Headers that a client needs beside the body.
KEPT_HEADERS = ("Location", "ETag")


class IdempotencyRecord(db.Model):
    """The response to a user's POST with a key. The fingerprint identifies a repetition of the same request."""

    __tablename__ = "kept_answers"

    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(MAX_KEY_CHARACTERS), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    status: Mapped[int]
    headers: Mapped[dict[str, str]] = mapped_column(sa.JSON)
    # None: the body contained a secret, which is not stored.
    body: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)


def export_records(person: Person) -> list[dict[str, Any]]:
    """Return which responses are stored; their content is exported by the slices."""
    columns = (IdempotencyRecord.key, IdempotencyRecord.status, IdempotencyRecord.created_at)
    return rows_of(sa.select(*columns).where(IdempotencyRecord.user_id == person.id))


def erase_records(person: Person) -> None:
    """Delete them."""
    db.session.execute(sa.delete(IdempotencyRecord).where(IdempotencyRecord.user_id == person.id))


register(
    Part(
        "answers",
        (IdempotencyRecord.user_id,),
        export_records,
        erase_records,
        "API responses that are stored for a day for repeated requests are deleted.",
    )
)


def secret_response(view: View) -> View:
    """Mark an endpoint whose response contains a secret: it is not stored. Goes directly above the function."""
    view.__dict__["has_secret_response"] = True
    return view


def idempotent(view: View) -> View:
    """Return a view that is executed once for each user and key."""

    @wraps(view)
    def execute_once(*args: Any, **kwargs: Any) -> Response:
        key = request.headers.get(HEADER)
        # Keys belong to users; responses of public endpoints mostly contain secrets, and repeating those is harmless.
        if key is None or is_public(view):
            return current_app.make_response(view(*args, **kwargs))
        if not re.fullmatch(KEY_PATTERN, key):
            valid = f"must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters without spaces"
            raise InvalidInputError("Invalid idempotency key.", {HEADER: [valid]})
        session, user_id = db.session(), current_user.id
        _check_unfinished(session, user_id, key)
        record = session.get(IdempotencyRecord, (user_id, key), with_for_update=True)
        if record is not None:
            return _replay(record)
        with commits_held(session):
            response = current_app.make_response(view(*args, **kwargs))
            if response.status_code < 300:
                session.add(_record(user_id, key, response, is_secret=hasattr(view, "has_secret_response")))
        session.commit()
        return response

    return execute_once


def prune_idempotency_records(session: Session) -> int:
    """Delete records older than `KEEP`. The caller commits.

    Returns:
        the number of deleted records.
    """
    statement = sa.delete(IdempotencyRecord).where(IdempotencyRecord.created_at < utc_now() - KEEP)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]


def _check_unfinished(session: Session, user_id: int, key: str) -> None:
    """Reserve the key until the transaction ends. Raises ConflictError if another request has it.

    On SQLite the query for the record is enough: the second request waits for the first one and finds its record.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    digest = hashlib.sha256(f"idempotency/{user_id}/{key}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    if not session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(number))):
        raise ConflictError("A request with this key is in progress: try again in a moment.")


def _record(user_id: int, key: str, response: Response, *, is_secret: bool) -> IdempotencyRecord:
    record = IdempotencyRecord()
    record.user_id, record.key, record.fingerprint = user_id, key, _fingerprint()
    record.status = response.status_code
    record.headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    record.body = None if is_secret else response.get_data(as_text=True)
    return record


def _replay(record: IdempotencyRecord) -> Response:
    if record.fingerprint != _fingerprint():
        used = "was used for another request; use a new key for each request"
        raise InvalidInputError("This key belongs to another request.", {HEADER: [used]})
    if record.body is None:
        raise ConflictError(
            "This request was already executed. Its response contained a secret, which is shown once and not stored."
        )
    response = current_app.response_class(record.body, record.status, mimetype="application/json")
    response.headers.update(record.headers)
    response.headers[REPLAYED] = "true"
    return response


def _fingerprint() -> str:
    parts = (request.method.encode(), request.path.encode(), request.query_string, request.get_data(cache=True))
    return hashlib.sha256(b"\n".join(parts)).hexdigest()
