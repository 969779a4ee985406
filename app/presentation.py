"""How values look on a page: times in the reader's zone, ages, durations, links to subjects, the grid of a day.

Pure functions, and their registration as Jinja filters and globals. No queries live here, and nothing of one slice.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from math import ceil
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from flask import Flask, current_app, g, request, url_for
from markupsafe import Markup

from app.access import open_endpoints
from app.columns import utc_now

MINUTES_PER_ROW = 15
ROWS_PER_HOUR = 60 // MINUTES_PER_ROW
ROWS_PER_DAY = 24 * ROWS_PER_HOUR
MAX_LANES = 4
# Where the names of machines are put together: `reservations.sweep_overdue`, the id of a mail.
JOINT = re.compile(r"(?<=\w[._@-])(?=\w)")


# ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reader_zone() -> ZoneInfo:
    """The zone times are shown in: the user's (`g.zone`, a ZoneInfo or its name), else the setting TIMEZONE or UTC."""
    zone = g.get("zone") or current_app.config.get("TIMEZONE") or "UTC"
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo(str(zone))


def in_zone(moment: datetime, zone: ZoneInfo | None = None) -> datetime:
    """`moment` on the clock of `zone` (the reader's by default); a naive one is taken as UTC, as SQLite returns it."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(zone or reader_zone())


def localtime(moment: datetime | None, zone: ZoneInfo | None = None) -> str:
    """`Tue 25 Nov 2025, 14:30`."""
    if moment is None:
        return ""
    local = in_zone(moment, zone)
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M}"


def localdate(moment: datetime | date | None, zone: ZoneInfo | None = None) -> str:
    """`Tue 25 Nov 2025`; a plain date is taken as it is."""
    if moment is None:
        return ""
    local = in_zone(moment, zone) if isinstance(moment, datetime) else moment
    return f"{local:%a} {local.day} {local:%b %Y}"


def clock(moment: datetime | None, zone: ZoneInfo | None = None) -> str:
    """`14:30`."""
    return f"{in_zone(moment, zone):%H:%M}" if moment else ""


def span(start: datetime, end: datetime) -> str:
    """`Tue 25 Nov 2025, 14:30 to 15:30`; of two days, the end has its own."""
    is_one_day = in_zone(start).date() == in_zone(end).date()
    return f"{localtime(start)} to {clock(end) if is_one_day else localtime(end)}"


def is_past(moment: datetime, now: datetime | None = None) -> bool:
    """Whether `moment` lies behind us."""
    return in_zone(moment) < (now or utc_now())


def date_if_another(moment: datetime | None, than: datetime | None = None) -> str:
    """`25 Nov`, with the year unless it is this one; nothing when it is the day of `than`, by default of today."""
    if moment is None:
        return ""
    day = in_zone(than).date() if than else date_today()
    return "" if in_zone(moment).date() == day else _short_date(moment)


def _short_date(moment: datetime) -> str:
    day = in_zone(moment).date()
    return f"{day.day} {day:%b}" + (f" {day.year}" if day.year != date_today().year else "")


def clock_exact(moment: datetime | None, zone: ZoneInfo | None = None) -> str:
    """`14:30:05.123`, for the life cycle of a job."""
    if moment is None:
        return ""
    local = in_zone(moment, zone)
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def isodate(moment: datetime | date | None, zone: ZoneInfo | None = None) -> str:
    """`2025-11-25` in the reader's zone, for URLs."""
    if moment is None:
        return ""
    return (in_zone(moment, zone).date() if isinstance(moment, datetime) else moment).isoformat()


def date_today() -> date:
    """Today on the reader's clock."""
    return in_zone(utc_now()).date()


def utc_exact(moment: datetime | None) -> str:
    """`2025-11-25 13:30:05 UTC`: what a time says on hover."""
    return f"{in_zone(moment, ZoneInfo('UTC')):%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def utc_iso(moment: datetime | None) -> str:
    """`2025-11-25T13:30:05Z`, for the `datetime` attribute of `<time>`."""
    return f"{in_zone(moment, ZoneInfo('UTC')):%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def ago(moment: datetime | None, now: datetime | None = None, *, dated: bool = True) -> str:
    """`just now`, `42 s ago`, `3 min ago`, `in 2 h`; from a day on with the date, unless it is shown already: `5 d ago,
    24 Nov`."""
    if moment is None:
        return ""
    seconds = ((now or utc_now()) - in_zone(moment, ZoneInfo("UTC"))).total_seconds()
    if abs(seconds) < 2:
        return "just now"
    span = _coarse(abs(seconds))
    date = f", {_short_date(moment)}" if dated and abs(seconds) >= 86_400 else ""
    return f"{span} ago{date}" if seconds > 0 else f"in {span}{date}"


def _coarse(seconds: float) -> str:
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86_400)} d"


def duration(span: timedelta | float | None) -> str:
    """A length of time, a timedelta or seconds: `8 ms`, `1.4 s`, `3 min 05 s`, `2 h 10 min`, `18 d 13 h`."""
    if span is None:
        return ""
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def minutes(seconds: float) -> str:
    """A planned length of time in whole minutes: `45 min`, `1 h`, `1 h 30 min`."""
    hours, rest = divmod(round(seconds / 60), 60)
    return " ".join(
        part for part in (f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else "") if part
    )


def rounded_up(seconds: float) -> str:
    """How long to wait, in a sentence, and never too short: `40 seconds`, `1 minute`, `15 minutes`, `2 hours`."""
    for size, limit, word in ((1, 60, "second"), (60, 120 * 60, "minute")):
        if seconds < limit:
            return _counted(max(1, ceil(seconds / size)), word)
    return _counted(ceil(seconds / 3600), "hour")


def whole_span(span: timedelta) -> str:
    """A planned length of time in a sentence, in its largest whole unit: `90 minutes`, `1 hour`, `7 days`."""
    for unit, word in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour")):
        if not span % unit:
            return _counted(span // unit, word)
    return _counted(span // timedelta(minutes=1), "minute")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def between(start: datetime | None, end: datetime | None) -> str:
    """The duration from `start` to `end`; to now when it has not ended; nothing when it has not begun."""
    if start is None:
        return ""
    utc = ZoneInfo("UTC")
    return duration(in_zone(end or utc_now(), utc) - in_zone(start, utc))


# ── Words and values ─────────────────────────────────────────────────────────────────────────────────────────────


def plain(value: object) -> str:
    """The word an enum member stands for, or the value itself, as text."""
    return str(value.value if isinstance(value, Enum) else value) if value is not None else ""


def words(value: object) -> str:
    """What people call a value that is written in capitals: `IN_PROGRESS` → `in progress`, `TODO` → `to do`."""
    text = plain(value).lower().replace("_", " ")
    return "to do" if text == "todo" else text


def label(value: object) -> str:
    """The same as a label: `IN_PROGRESS` → `In progress`, `TODO` → `To do`."""
    return words(value).capitalize()


def sentence(text: str) -> str:
    """`text` as a sentence: errors say what a field takes in small letters, as half of one."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def breakable(text: str) -> Markup:
    """Escape `text`, and let a name that is too long for its line break after a dot, dash, underscore or at sign."""
    return Markup("<wbr>").join(JOINT.split(text))


def pretty_json(value: Any) -> str:
    """JSON for people: indented, letters of every script as they are."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def initials(name: str | None) -> str:
    """At most two letters for the round badge of a person: `Ada Lovelace` → `AL`, `staff@school.test` → `S`."""
    words = (name or "?").split("@")[0].replace(".", " ").replace("_", " ").split()
    letters = [word[0] for word in words] or ["?"]
    return "".join(letters[:1] + letters[1:][-1:]).upper()


# ── Addresses ────────────────────────────────────────────────────────────────────────────────────────────────────


def url_with(endpoint: str | None = None, **changes: Any) -> str:
    """The address of this list with some query parameters changed; None drops one. The cursor goes unless it is given:
    another filter begins at the first page again."""
    query = request.args.to_dict(flat=False)
    query.pop("cursor", None)
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = [plain(value)]
    query = {name: [value for value in values if value != ""] for name, values in query.items()}
    address = url_for(endpoint or request.endpoint or "index", **(request.view_args or {}))
    encoded = urlencode(query, doseq=True)
    return f"{address}?{encoded}" if encoded else address


def has_endpoint(endpoint: str) -> bool:
    """Whether the application has this page: the navigation shows what exists."""
    return endpoint in current_app.view_functions


def register_subject(app: Flask, subject_type: str, endpoint: str, argument: str) -> None:
    """Called by a slice: jobs and mails about `subject_type` link to `endpoint`, which takes the id as `argument`."""
    app.extensions["subject_pages"][subject_type.lower()] = (endpoint, argument)


def subject_url(subject_type: str | None, subject_id: object) -> str | None:
    """The page of the row a job or mail is about, or None when no slice registered one."""
    pages: Mapping[str, tuple[str, str]] = current_app.extensions["subject_pages"]
    page = pages.get((subject_type or "").lower())
    if page is None or subject_id is None:
        return None
    endpoint, argument = page
    values: dict[str, Any] = {argument: subject_id}
    return url_for(endpoint, **values)


# ── The grid of a day ────────────────────────────────────────────────────────────────────────────────────────────


class Booking(Protocol):
    """What the day view needs of a reservation."""

    @property
    def start_time(self) -> datetime: ...
    @property
    def end_time(self) -> datetime: ...


@dataclass(frozen=True)
class DayBlock:
    """One booking placed on the grid: rows count from 1 and last `MINUTES_PER_ROW` each; lanes split a column."""

    booking: Any
    row: int
    span: int
    lane: int
    lanes: int


@dataclass(frozen=True)
class DayColumn:
    """One resource and its bookings in order of time."""

    name: str
    blocks: Sequence[DayBlock]


@dataclass(frozen=True)
class DayGrid:
    """A day as rows and columns; `hours` are (label, row) pairs, `now_row` is set when now lies within it."""

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

    The grid shows `opens` to `closes` (hours) and grows to hold what lies outside. Wall time on purpose: on the two
    days a year that have 23 or 25 hours a lesson at nine still stands at nine.
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
    """First row and the row after the last, counted from midnight and cut at the edges of the day."""
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
    """Give overlapping bookings lanes of their own; each run of overlaps shares one number of lanes."""
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


# ── Registration ─────────────────────────────────────────────────────────────────────────────────────────────────

FILTERS: Mapping[str, Callable[..., Any]] = {
    "localtime": localtime,
    "localdate": localdate,
    "clock": clock,
    "clock_exact": clock_exact,
    "isodate": isodate,
    "date_if_another": date_if_another,
    "utc_exact": utc_exact,
    "utc_iso": utc_iso,
    "ago": ago,
    "duration": duration,
    "minutes": minutes,
    "breakable": breakable,
    "plain": plain,
    "words": words,
    "label": label,
    "pretty_json": pretty_json,
    "initials": initials,
}

GLOBALS: Mapping[str, Callable[..., Any]] = {
    "between": between,
    "is_past": is_past,
    "reader_zone": reader_zone,
    "date_today": date_today,
    "url_with": url_with,
    "has_endpoint": has_endpoint,
    "subject_url": subject_url,
}


def init_app(app: Flask) -> None:
    """Make the filters and globals known to every template."""
    app.extensions.setdefault("subject_pages", {})
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.globals.update(GLOBALS)
    app.url_defaults(_add_version)
    open_endpoints(app, "static")


def _add_version(endpoint: str, values: dict[str, Any]) -> None:
    """Called for every URL: a static file's carries its time of change, so that browsers may keep the file for ever."""
    if endpoint == "static" and "filename" in values and "v" not in values:
        path = Path(current_app.static_folder or "") / values["filename"]
        if path.is_file():
            values["v"] = int(path.stat().st_mtime)
