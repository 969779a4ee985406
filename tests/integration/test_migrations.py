"""Migrations over a database that is in use: rows stay, and so does what refers to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask_migrate import downgrade, upgrade
from sqlalchemy.exc import IntegrityError

from app import create_app
from flask_belfry.db import db

NOW = "2026-11-22 05:00:00+00:00"
NONCE = "7b7a6d1c4e5f4a8b9c0d1e2f3a4b5c6d"


@pytest.fixture
def app(empty_database: str, tmp_path: Path) -> Iterator[None]:
    """An application over it, inside its context."""
    environ = {"APP_ENV": "testing", "DATABASE_URL": empty_database, "REDIS_URL": "redis://127.0.0.1:1"}
    with create_app(environ=environ, instance_path=tmp_path).app_context():
        yield
        db.session.remove()
        db.engine.dispose()


def insert(table: str, **values: object) -> None:
    names = ", ".join(values)
    statement = f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"
    db.session.execute(sa.text(statement), values)


def insert_user(id: int, **values: object) -> None:
    common = {"email": "ada@example.org", "name": "Ada", "password_hash": "!", "role": "member", "active": True}
    insert("users", id=id, username=f"u{id}", username_key=f"u{id}", created_at=NOW, session_nonce=NONCE,
           **common | values)  # fmt: skip


def count(table: str) -> int:
    return db.session.scalar(sa.text(f"SELECT count(*) FROM {table}"))


@pytest.mark.usefixtures("app")
def test_who_is_there_is_confirmed_and_keeps_everything_and_an_address_has_one_confirmed_user() -> None:
    upgrade(revision="0001")
    insert_user(1)
    insert("access_tokens", id=1, hash="x", user_id=1, name="login", created_at=NOW, expires_at=NOW)
    insert("reservations", id=1, customer_id=1, start_time=NOW, end_time="2026-11-22 06:00:00+00:00",
           duration_minutes=60, party_size=1, status="pending", note="", created_at=NOW, updated_at=NOW)  # fmt: skip
    db.session.commit()

    upgrade(revision="0002")
    assert (count("users"), count("access_tokens"), count("reservations")) == (1, 1, 1)
    assert db.session.scalar(sa.text("SELECT confirmed_at = created_at FROM users"))
    insert_user(2, school_id=1)  # claims the address
    insert_user(3, school_id=1)
    db.session.commit()
    for change in ("confirmed_at = created_at", "role = 'king'"):
        with pytest.raises(IntegrityError):
            db.session.execute(sa.text(f"UPDATE users SET {change} WHERE id = 2"))
        db.session.rollback()
    with pytest.raises(IntegrityError):  # references are held again
        db.session.execute(sa.text("DELETE FROM users WHERE id = 1"))
    db.session.rollback()

    downgrade(revision="0001")
    assert (count("users"), count("access_tokens"), count("reservations")) == (1, 1, 1)


@pytest.mark.usefixtures("app")
def test_changes_get_their_numbers_by_time_and_an_item_the_number_of_the_last_one_notified() -> None:
    upgrade(revision="0008")
    insert("work_items", id=7, kind="epic", title="a", description="", status="DONE", priority="LOW", position=1,
           school_id=1, created_at=NOW, updated_at=NOW)  # fmt: skip
    for minute, field in ((2, "status"), (1, "status"), (3, "title"), (4, "status")):
        insert("status_changes", id=f"{minute:032x}", subject_type="work_item", subject_id="7", field=field,
               at=f"2026-11-22 05:0{minute}:00+00:00")  # fmt: skip
    insert("work_item_notices", item_id=7, told_until="2026-11-22 05:02:00+00:00", gather_until=NOW)
    db.session.commit()
    upgrade(revision="0009")
    assert db.session.scalars(sa.text("SELECT number FROM status_changes ORDER BY at")).all() == [1, 2, 3, 4]
    assert db.session.scalar(sa.text("SELECT told_number FROM work_item_notices")) == 2
    db.session.rollback()
    downgrade(revision="0008")
    assert (count("status_changes"), count("work_item_notices")) == (4, 1)


@pytest.mark.usefixtures("app")
def test_mails_whose_jobs_have_ended_without_them_end_too() -> None:
    upgrade(revision="0009")
    insert_job("a" * 32, "failed")
    insert_job("b" * 32, "pending")
    for number, (state, job_id) in enumerate(
        [("sending", "a"), ("queued", "a"), ("deferred", "gone"), ("sending", "b"), ("sent", "a"), ("failed", "a")]
    ):
        error = "its job was cancelled" if state == "failed" else None
        insert_mail(number, state, job_id=("c" if job_id == "gone" else job_id) * 32, last_error=error)
    db.session.commit()

    upgrade(revision="0010")
    states = ["uncertain", "failed", "failed", "sending", "sent", "cancelled"]
    query = sa.text("SELECT state FROM email_messages ORDER BY unique_key")
    assert list(db.session.scalars(query)) == states
    with pytest.raises(IntegrityError):
        db.session.execute(sa.text("UPDATE email_messages SET state = 'lost'"))
    db.session.rollback()

    downgrade(revision="0009")
    assert list(db.session.scalars(query)) == [*states[:-1], "failed"]
    db.session.rollback()


def insert_job(id: str, state: str) -> None:
    insert("job_records", id=id, name="mail.deliver", queue="mail", state=state, args="{}", attempt=1, max_attempts=1,
           claims=1, interruptions=0, timeout_seconds=1, cancel_requested=False, unique_while_waiting=False,
           created_at=NOW)  # fmt: skip


def insert_mail(number: int, state: str, **values: object) -> None:
    insert("email_messages", id=f"{number}" * 32, unique_key=f"key/{number}", kind="notice", recipients="[]",
           context="{}", state=state, attempts=1, uncertain_count=0, message_id="<x>", created_at=NOW,
           **values)  # fmt: skip
