"""Cursors are input of clients: an invalid one is answered with a clear error, never with a crash."""

from __future__ import annotations

import base64
import json

import pytest
import sqlalchemy as sa

from app.reservations import Reservation
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db.pagination import page_by_key
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord, enqueue


def cursor_of(*values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("model", "key", "cursor"),
    [
        (JobRecord, ("id",), cursor_of("x")),
        (JobRecord, ("id",), cursor_of("a\u0000")),
        (EmailMessage, ("id",), cursor_of("\ud800")),
        (EmailMessage, ("id",), cursor_of(None)),
        (JobRecord, ("id",), "%%%"),
        (JobRecord, ("id",), cursor_of()),
        (Reservation, ("start_time", "id"), cursor_of("2026-11-21T10:00:00+00:00", 2**31)),
        (Reservation, ("start_time", "id"), cursor_of("0001-01-01T00:00:00+14:00", 1)),
        (Reservation, ("start_time", "id"), cursor_of("2026-11-21T10:00:00", 1)),
    ],
)
def test_a_cursor_that_no_list_gave_out_is_refused(session, model, key, cursor):
    columns = [getattr(model, name) for name in key]
    with pytest.raises(InvalidInputError, match="does not exist"):
        page_by_key(session, sa.select(model), columns, cursor=cursor)


def test_pages_follow_each_other_without_a_gap_or_a_repeat(session):
    ids = [enqueue("test.greet", ticket_id=n) for n in range(25)]
    session.commit()
    seen, cursor = [], None
    while True:
        page = page_by_key(session, sa.select(JobRecord), (JobRecord.id,), limit=10, cursor=cursor)
        seen += [record.id for record in page.items]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert seen == sorted(ids, reverse=True)
