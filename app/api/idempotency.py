"""`Idempotency-Key`: a POST that is sent again, because its answer was lost, is answered again and done once.

The header is that of the IETF draft (draft-ietf-httpapi-idempotency-key-header-07). The answer is kept in the
transaction of what was done: a crash leaves both or neither. Errors are not kept: they did nothing, so asking again is
safe.
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
# What a client needs of the answer beside its body.
KEPT_HEADERS = ("Location", "ETag")


class IdempotencyRecord(db.Model):
    """What a user's POST with a key was answered. The fingerprint tells whether the same is asked again."""

    __tablename__ = "kept_answers"

    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(MAX_KEY_CHARACTERS), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    status: Mapped[int]
    headers: Mapped[dict[str, str]] = mapped_column(sa.JSON)
    # None: it held a secret, which is kept nowhere.
    body: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)


def export_answers(person: Person) -> list[dict[str, Any]]:
    """Which answers are kept; what they said the person has been told elsewhere."""
    columns = (IdempotencyRecord.key, IdempotencyRecord.status, IdempotencyRecord.created_at)
    return rows_of(sa.select(*columns).where(IdempotencyRecord.user_id == person.id))


def erase_answers(person: Person) -> None:
    """Deletes them."""
    db.session.execute(sa.delete(IdempotencyRecord).where(IdempotencyRecord.user_id == person.id))


register(
    Part(
        "answers",
        (IdempotencyRecord.user_id,),
        export_answers,
        erase_answers,
        "Responses that the API keeps for a day for repeated requests are deleted.",
    )
)


def secret_response(view: View) -> View:
    """For endpoints whose answer holds a secret: it is not kept. Goes right above the function."""
    view.__dict__["has_secret_answer"] = True
    return view


def idempotent(view: View) -> View:
    """A view that does with a key what it does without, once for each user and key."""

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Response:
        key = request.headers.get(HEADER)
        # Keys are told apart by user; what is open to everybody mostly gives out secrets, and is harmless to repeat.
        if key is None or is_public(view):
            return current_app.make_response(view(*args, **kwargs))
        if not re.fullmatch(KEY_PATTERN, key):
            takes = f"must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters without spaces"
            raise InvalidInputError("The key is not usable.", {HEADER: [takes]})
        session, user_id = db.session(), current_user.id
        _check_unfinished(session, user_id, key)
        kept = session.get(IdempotencyRecord, (user_id, key), with_for_update=True)
        if kept is not None:
            return _answer_again(kept)
        with commits_held(session):
            response = current_app.make_response(view(*args, **kwargs))
            if response.status_code < 300:
                session.add(_kept(user_id, key, response, is_secret=hasattr(view, "has_secret_answer")))
        session.commit()
        return response

    return answer


def prune_idempotency_records(session: Session) -> int:
    """Deletes answers that were kept for `KEEP`. The caller commits.

    Returns:
        how many were deleted.
    """
    statement = sa.delete(IdempotencyRecord).where(IdempotencyRecord.created_at < utc_now() - KEEP)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]


def _check_unfinished(session: Session, user_id: int, key: str) -> None:
    """Makes this request the one with its key, until its transaction ends; raises ConflictError when there is another.

    On SQLite, the query for the kept answer does that: the second request waits for the first, and finds its answer.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    digest = hashlib.sha256(f"idempotency/{user_id}/{key}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    if not session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(number))):
        raise ConflictError("A request with this key is under way: ask again in a moment.")


def _kept(user_id: int, key: str, response: Response, *, is_secret: bool) -> IdempotencyRecord:
    kept = IdempotencyRecord()
    kept.user_id, kept.key, kept.fingerprint = user_id, key, _fingerprint()
    kept.status = response.status_code
    kept.headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    kept.body = None if is_secret else response.get_data(as_text=True)
    return kept


def _answer_again(kept: IdempotencyRecord) -> Response:
    if kept.fingerprint != _fingerprint():
        used = "was used for another request; take a new one for each"
        raise InvalidInputError("This key belongs to another request.", {HEADER: [used]})
    if kept.body is None:
        raise ConflictError("This was done already. Its answer held a secret, which was shown once and is not kept.")
    response = current_app.response_class(kept.body, kept.status, mimetype="application/json")
    response.headers.update(kept.headers)
    response.headers[REPLAYED] = "true"
    return response


def _fingerprint() -> str:
    asked = (request.method.encode(), request.path.encode(), request.query_string, request.get_data(cache=True))
    return hashlib.sha256(b"\n".join(asked)).hexdigest()
