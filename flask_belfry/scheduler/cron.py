"""The run times of a schedule: pure functions of the clock, so that every scheduler finds the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo

from cron_descriptor import Options, get_description
from croniter import croniter

from flask_belfry.execution.errors import EngineError

OPTIONS = Options()
OPTIONS.use_24hour_time_format = True
# An upper bound of the shift of any zone's clocks: the largest is two hours, in Antarctica/Troll.
LONGEST_SHIFT = timedelta(hours=3)
# croniter replaces R by a random number; in the names of days and months an R has letters beside it.
_RANDOM = re.compile(r"(?<![a-z])r(?![a-z])", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ScheduleError(EngineError):
    """An entry of the schedule is invalid."""


class Timing(Protocol):
    """The run times (ticks) of a schedule."""

    def next_tick(self, after: datetime) -> datetime:
        """Return the first tick after an aware datetime, in UTC."""
        ...

    def describe(self) -> str:
        """Return the timing in plain words."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Every:
    """A tick every `seconds`, counted from the epoch: without drift, and independent of restarts."""

    seconds: float

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ScheduleError(f"every must be more than 0 seconds, not {self.seconds}")

    def next_tick(self, after: datetime) -> datetime:
        """Return the first multiple of the interval after `after`."""
        step = timedelta(seconds=self.seconds)
        return _EPOCH + ((after - _EPOCH) // step + 1) * step

    def describe(self) -> str:
        """Return words such as `every 5 minutes`."""
        for unit, seconds in (("hour", 3600), ("minute", 60), ("second", 1)):
            count = self.seconds / seconds
            if count >= 1 and count == int(count):
                return f"every {unit}" if count == 1 else f"every {count:g} {unit}s"
        return f"every {self.seconds:g} seconds"

    def __str__(self) -> str:
        return f"every {self.seconds:g} s"


@dataclass(frozen=True)
class Cron:
    """A cron line in a zone.

    At the transitions of daylight saving time it does what cron(8) of Debian does: a line with fixed hours runs once a
    day (a skipped time runs right after the gap, a repeated one the first time); a line whose hours are a wildcard
    follows the real clock and also runs in the repeated hour.
    """

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if not croniter.is_valid(self.line) or len(self.line.split()) != 5:
            raise ScheduleError(f"cron must have five fields such as '0 3 * * *', not {self.line!r}")
        if _RANDOM.search(self.line):
            raise ScheduleError(f"cron must not have random times (R), which differ in each scheduler: {self.line!r}")

    def next_tick(self, after: datetime) -> datetime:
        """Return the first time after `after` that the line matches."""
        zone = ZoneInfo(self.zone)
        start = after.astimezone(zone).replace(tzinfo=None)
        if (after + LONGEST_SHIFT).astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            start -= LONGEST_SHIFT  # the wall clock is about to go back and repeats these times
        best: datetime | None = None
        for wall in self._wall_times(start):
            instants = [instant for instant in self._instants(wall, zone) if instant > after]
            best = min([*instants, best] if best else instants, default=None)
            if best is not None and _to_utc(wall, zone, 0) > best:
                return best
        raise ScheduleError(f"{self.line!r} never ticks")

    def _wall_times(self, start: datetime) -> Iterator[datetime]:
        times = croniter(self.line, start)
        while True:
            yield times.get_next(datetime)

    def _instants(self, wall: datetime, zone: ZoneInfo) -> list[datetime]:
        first, second = _to_utc(wall, zone, 0), _to_utc(wall, zone, 1)
        if first.astimezone(zone).replace(tzinfo=None) != wall:  # in a gap: with fold=0 it is past it (PEP 495)
            return [] if self._follows_clock else [_end_of_gap(first, zone)]
        return [first, second] if self._follows_clock and second > first else [first]

    @property
    def _follows_clock(self) -> bool:
        return self.line.split()[1].startswith("*")

    def describe(self) -> str:
        """Return words such as `at 03:17`."""
        words = get_description(self.line, OPTIONS)
        return words[:1].lower() + words[1:]

    def __str__(self) -> str:
        return f"cron {self.line}"


def ticks_between(timing: Timing, after: datetime, until: datetime, limit: int) -> list[datetime]:
    """Return the first `limit` ticks in (after, until]."""

    def ticks() -> Iterator[datetime]:
        tick = timing.next_tick(after)
        while tick <= until:
            yield tick
            tick = timing.next_tick(tick)

    return list(islice(ticks(), limit))


def last_tick(timing: Timing, tick: datetime, until: datetime) -> datetime:
    """Return the newest tick at or before `until`, found by bisection from `tick`, an earlier one."""
    while timing.next_tick(tick) <= until:
        middle = tick + (until - tick) / 2
        candidate = timing.next_tick(middle)
        if candidate <= until:
            tick = candidate
        else:
            until = middle
    return tick


def _to_utc(wall: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _end_of_gap(after_gap: datetime, zone: ZoneInfo) -> datetime:
    """Return the time at which a skipped hour ends, found from a time less than a gap's length past it."""
    offset = after_gap.astimezone(zone).utcoffset()
    high = int(after_gap.timestamp())
    low = high - LONGEST_SHIFT // timedelta(seconds=1)
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)
