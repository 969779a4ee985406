"""The grid of the day view: the place of each reservation in its column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import in_zone

MINUTES_PER_ROW = 15
ROWS_PER_HOUR = 60 // MINUTES_PER_ROW
ROWS_PER_DAY = 24 * ROWS_PER_HOUR
MAX_LANES = 4


class Booking(Protocol):
    """A reservation in the day view."""

    @property
    def start_time(self) -> datetime: ...
    @property
    def end_time(self) -> datetime: ...


@dataclass(frozen=True)
class DayBlock:
    """A booking on the grid. Rows start at 1 and are `MINUTES_PER_ROW` long; lanes divide a column."""

    booking: Any
    row: int
    span: int
    lane: int
    lanes: int


@dataclass(frozen=True)
class DayColumn:
    """A resource and its bookings in order of time."""

    name: str
    blocks: Sequence[DayBlock]


@dataclass(frozen=True)
class DayGrid:
    """A day as rows and columns; `hours` are (label, row) pairs, `now_row` is None if now is not on the grid."""

    columns: Sequence[DayColumn]
    hours: Sequence[tuple[str, int]]
    rows: int
    now_row: int | None = None
    bookings: int = 0


def day_grid(
    columns: Mapping[str, Iterable[Booking]],
    day: date,
    zone: ZoneInfo,
    *,
    now: datetime | None = None,
    opens: int = 8,
    closes: int = 18,
) -> DayGrid:
    """Place a day's bookings, by the name of their column, on the wall clock of `zone`.

    The grid shows the hours from `opens` to `closes`, and more if a booking is outside. Rows are wall-clock time: on
    the days with 23 or 25 hours, a lesson at nine is still shown at nine.
    """
    spans = {
        name: sorted((_rows_of(booking, day, zone), index, booking) for index, booking in enumerate(bookings))
        for name, bookings in columns.items()
    }
    every = [rows for column in spans.values() for rows, _, _ in column]
    first_hour = min([opens, *(start // ROWS_PER_HOUR for start, _ in every)])
    last_hour = max([closes, *(-(-end // ROWS_PER_HOUR) for _, end in every)])
    offset = first_hour * ROWS_PER_HOUR
    return DayGrid(
        columns=[
            DayColumn(name, _place([(rows, booking) for rows, _, booking in column], offset))
            for name, column in spans.items()
        ],
        hours=[(f"{hour:02d}:00", hour * ROWS_PER_HOUR - offset + 1) for hour in range(first_hour, last_hour)],
        rows=(last_hour - first_hour) * ROWS_PER_HOUR,
        now_row=_now_row(now, day, zone, offset, last_hour * ROWS_PER_HOUR),
        bookings=len(every),
    )


def _rows_of(booking: Booking, day: date, zone: ZoneInfo) -> tuple[int, int]:
    """Return the first row and the row after the last, counted from midnight and limited to the day."""
    start = _row_at(in_zone(booking.start_time, zone), day)
    end = _row_at(in_zone(booking.end_time, zone) + timedelta(minutes=MINUTES_PER_ROW - 1), day)
    start = min(start, ROWS_PER_DAY - 1)
    return start, max(end, start + 1)


def _row_at(local: datetime, day: date) -> int:
    if local.date() < day:
        return 0
    if local.date() > day:
        return ROWS_PER_DAY
    return (local.hour * 60 + local.minute) // MINUTES_PER_ROW


def _place(bookings: Sequence[tuple[tuple[int, int], Any]], offset: int) -> list[DayBlock]:
    """Give overlapping bookings separate lanes; each group of overlaps has one number of lanes."""
    blocks: list[DayBlock] = []
    for run in _overlapping_runs(bookings):
        lane_ends: list[int] = []
        placed: list[tuple[tuple[int, int], Any, int]] = []
        for (start, end), booking in run:
            lane = next((i for i, free_from in enumerate(lane_ends) if free_from <= start), len(lane_ends))
            lane_ends[lane : lane + 1] = [end]
            placed.append(((start, end), booking, lane))
        lanes = min(len(lane_ends), MAX_LANES)
        blocks += [
            DayBlock(booking, start - offset + 1, end - start, min(lane, lanes - 1) + 1, lanes)
            for (start, end), booking, lane in placed
        ]
    return blocks


def _overlapping_runs(
    bookings: Sequence[tuple[tuple[int, int], Any]],
) -> Iterable[list[tuple[tuple[int, int], Any]]]:
    run: list[tuple[tuple[int, int], Any]] = []
    run_end = 0
    for rows, booking in bookings:
        if run and rows[0] >= run_end:
            yield run
            run = []
        run.append((rows, booking))
        run_end = max(run_end if len(run) > 1 else 0, rows[1])
    if run:
        yield run


def _now_row(now: datetime | None, day: date, zone: ZoneInfo, first_row: int, end_row: int) -> int | None:
    local = in_zone(now or utc_now(), zone)
    row = _row_at(local, day)
    return row - first_row + 1 if local.date() == day and first_row <= row < end_row else None
