"""Rows of reservations, written past both applications by one statement: their tables have the same columns."""

from __future__ import annotations

from bench.ground import Ground

CUSTOMERS = 1_000
NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count}) ",
    "postgresql": "WITH numbers AS (SELECT i FROM generate_series(1, {count}) AS i) ",
}
# So many minutes from now; SQLite's text has the form that both applications write.
MINUTES_FROM_NOW = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', 'now', ({minutes}) || ' minutes') || '.000000'",
    "postgresql": "now() + ({minutes}) * interval '1 minute'",
}
LOAD = (
    "{numbers} INSERT INTO reservations (id, school_id, customer_id, start_time, duration_minutes, end_time, "
    "party_size, note, status, created_at, updated_at) SELECT i, 1, (i - 1) % {customers} + 1, {start}, 60, {end}, "
    "2, '', {status}, {now}, {now} FROM numbers"
)
TOUCH_UP = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE reservations"}


def load_pending(ground: Ground, count: int) -> None:
    """Writes pending reservations of the coming days, with the ids 1, 2, …"""
    _load(ground, count, minutes="1440 + i", status="'pending'")


def load_history(ground: Ground, count: int, confirmed: int) -> None:
    """Writes completed reservations of the past, and under the first ids confirmed ones of the coming days."""
    is_open = f"i <= {confirmed}"
    _load(
        ground,
        count,
        minutes=f"CASE WHEN {is_open} THEN 1440 + i ELSE -1440 - i END",
        status=f"CASE WHEN {is_open} THEN 'confirmed' ELSE 'completed' END",
    )


def make_overdue(ground: Ground, first_id: int, last_id: int) -> None:
    """Moves reservations into the past."""
    start, end = _moment(ground, "-1440 + id % 60"), _moment(ground, "-1380 + id % 60")
    ground.execute(
        f"UPDATE reservations SET start_time = {start}, end_time = {end} WHERE id BETWEEN {first_id} AND {last_id}"
    )
    ground.execute(TOUCH_UP[ground.database])


def _load(ground: Ground, count: int, minutes: str, status: str) -> None:
    statement = LOAD.format(
        numbers=NUMBERS[ground.database].format(count=count),
        customers=CUSTOMERS,
        start=_moment(ground, minutes),
        end=_moment(ground, f"60 + ({minutes})"),
        now=_moment(ground, "0"),
        status=status,
    )
    ground.execute(statement)
    ground.execute(TOUCH_UP[ground.database])


def _moment(ground: Ground, minutes: str) -> str:
    return MINUTES_FROM_NOW[ground.database].format(minutes=minutes)
