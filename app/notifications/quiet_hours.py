"""Quiet hours and times of the day in a time zone: pure functions, also right on the days when the clocks change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class QuietHours:
    """The hours of each day in which a person is not disturbed. `until` at or before `start` is on the next day."""

    start: time
    until: time

    def end(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Return when the quiet hours that include `now` end, in UTC; None when there are none now.

        Each period goes from the first moment of its start to the first moment of its end. So a clock that is put back
        over the end does not begin them again.
        """
        today = now.astimezone(zone).date()
        for day in (today - _DAY, today):
            until = first_moment(day if self.start < self.until else day + _DAY, self.until, zone)
            if first_moment(day, self.start, zone) <= now < until:
                return until
        return None


def first_moment(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """Return the first moment at which the clocks of a zone show a time, or a later one, in UTC.

    A time that the clocks skip means the moment at which they go forward; of one that they show twice, the first.
    """
    local = datetime.combine(day, clock, zone)
    moment, other = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if moment <= other:
        return moment
    # Skipped: `fold` selects the offset before or after the transition, which is between the two moments.
    before, after = other, moment
    while after - before > _SECOND:
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == after.astimezone(zone).utcoffset():
            after = middle
        else:
            before = middle
    return after.replace(microsecond=0)


def last_moment(now: datetime, clock: time, zone: ZoneInfo) -> datetime:
    """Return the latest time at or before `now` that `first_moment` returns for a day, in UTC."""
    today = now.astimezone(zone).date()
    moments = (first_moment(today - days * _DAY, clock, zone) for days in (0, 1, 2))
    return next(moment for moment in moments if moment <= now)
