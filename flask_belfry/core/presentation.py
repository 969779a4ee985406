"""Formats values for pages: times in the reader's zone, ages, durations, links to subjects.

Pure functions and their registration as Jinja filters and globals, without queries and without knowledge of a slice.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from math import ceil
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from flask import Flask, current_app, g, request, url_for
from markupsafe import Markup, escape

from flask_belfry.core.clock import utc_now

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


def age_seconds(moment: datetime) -> int:
    """How many seconds ago `moment` was, negative for a future one: pages count on from there."""
    return round((utc_now() - in_zone(moment, ZoneInfo("UTC"))).total_seconds())


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
    """Return the value of an enum member, or the value itself, as text."""
    return str(value.value if isinstance(value, Enum) else value) if value is not None else ""


def words(value: object) -> str:
    """What people call a value that is written in capitals: `IN_PROGRESS` → `in progress`, `TODO` → `to do`."""
    text = plain(value).lower().replace("_", " ")
    return "to do" if text == "todo" else text


def label(value: object) -> str:
    """The same as a label: `IN_PROGRESS` → `In progress`, `TODO` → `To do`."""
    return words(value).capitalize()


def sentence(text: str) -> str:
    """Return `text` with a capital and a full stop: the messages of fields begin in lower case."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def breakable(text: str) -> Markup:
    """Escape `text`, and let a name that is too long for its line break after a dot, dash, underscore or at sign."""
    return Markup("<wbr>").join(JOINT.split(text))


def code_spans(text: str) -> Markup:
    """Escape `text`, and mark what is between backticks as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(text.split("`"))
    )


def pretty_json(value: Any) -> str:
    """Return indented JSON, without escapes for characters outside of ASCII."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def initials(name: str | None) -> str:
    """At most two letters for the round badge of a person: `Ada Lovelace` → `AL`, `staff@school.test` → `S`."""
    words = (name or "?").split("@")[0].replace(".", " ").replace("_", " ").split()
    letters = [word[0] for word in words] or ["?"]
    return "".join(letters[:1] + letters[1:][-1:]).upper()


# ── URLs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def url_with(endpoint: str | None = None, **changes: Any) -> str:
    """The URL of this list with some query parameters changed; None drops one. The cursor goes unless it is given:
    another filter begins at the first page again."""
    query = request.args.to_dict(flat=False)
    query.pop("cursor", None)
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = [plain(value)]
    query = {name: [value for value in values if value != ""] for name, values in query.items()}
    url = url_for(endpoint or request.endpoint or "index", **(request.view_args or {}))
    encoded = urlencode(query, doseq=True)
    return f"{url}?{encoded}" if encoded else url


def has_endpoint(endpoint: str) -> bool:
    """Whether the application has this page: the navigation shows what exists."""
    return endpoint in current_app.view_functions


def register_subject(app: Flask, subject_type: str, endpoint: str, argument: str) -> None:
    """Link jobs and mails about `subject_type` to `endpoint`, which gets the id as `argument`. Called by slices."""
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
    "age_seconds": age_seconds,
    "duration": duration,
    "minutes": minutes,
    "rounded_up": rounded_up,
    "breakable": breakable,
    "code_spans": code_spans,
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
