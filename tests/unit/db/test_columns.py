"""Times as databases return them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from flask_belfry.db.columns import UtcDateTime

MOMENT = datetime(2026, 11, 29, 22, 30, 5, 123_456, UTC)


@pytest.mark.parametrize(
    "value",
    [
        MOMENT,
        MOMENT.replace(tzinfo=None),
        MOMENT.astimezone(timezone(timedelta(hours=5, minutes=45))),
        "2026-11-29 22:30:05.123456",
        "2026-11-29T22:30:05.123456Z",
        "2026-11-29 17:00:05.123456-05:30",
    ],
)
def test_a_moment_is_the_same_in_every_form_a_driver_returns_it_in(value):
    found = UtcDateTime().process_result_value(value, postgresql.dialect())
    assert (found, found and found.tzinfo) == (MOMENT, UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-29 22:30:05", MOMENT.replace(microsecond=0)),
        ("2026-11-29 22:30:05.123", MOMENT.replace(microsecond=123_000)),
        ("2026-11-29T23:30:05.123456+01:00", MOMENT),
    ],
)
def test_sqlite_may_hold_what_others_wrote_there(text, moment):
    with sa.create_engine("sqlite://").connect() as connection:
        assert connection.execute(sa.select(sa.literal_column(f"'{text}'", UtcDateTime()))).scalar_one() == moment
