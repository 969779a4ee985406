"""When a schedule ticks: pure functions of the clock, so that every scheduler finds the same ticks."""

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

from flask_belfry.scheduler.errors import ScheduleError

OPTIONS = Options()
OPTIONS.use_24hour_time_format = True
# No zone puts its clocks forward or back by more: the most is Antarctica/Troll's two hours.
LONGEST_SHIFT = timedelta(hours=3)
# croniter draws a number for an R; the names of days and months have letters beside theirs.
_RANDOM = re.compile(r"(?<![a-z])r(?![a-z])", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Timing(Protocol):
    """The ticks of a schedule."""

    def next_tick(self, after: datetime) -> datetime:
        """The first tick after an aware moment, in UTC."""
        ...

    def describe(self) -> str:
        """The timing in plain words."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Every:
    """A tick every so many seconds, counted from the epoch: no drift, and restarts change nothing."""

    seconds: float

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ScheduleError(f"every takes more than 0 seconds, not {self.seconds}")

    def next_tick(self, after: datetime) -> datetime:
        """The first multiple of the interval after `after`."""
        step = timedelta(seconds=self.seconds)
        return _EPOCH + ((after - _EPOCH) // step + 1) * step

    def describe(self) -> str:
        """In words: `every 5 minutes`."""
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

    At the edges of summer time it does what cron(8) of Debian does: a line with fixed hours runs once a day (a time
    that is skipped runs right after the gap, one that comes twice runs the first time); a line whose hours are a
    wildcard follows the real clock and also runs in the repeated hour.
    """

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if not croniter.is_valid(self.line) or len(self.line.split()) != 5:
            raise ScheduleError(f"cron takes five fields such as '0 3 * * *', not {self.line!r}")
        if _RANDOM.search(self.line):
            raise ScheduleError(f"cron takes no random times (R), which differ in each scheduler: {self.line!r}")

    def next_tick(self, after: datetime) -> datetime:
        """The first moment after `after` that the line names."""
        zone = ZoneInfo(self.zone)
        start = after.astimezone(zone).replace(tzinfo=None)
        if (after + LONGEST_SHIFT).astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            start -= LONGEST_SHIFT  # the wall clock is about to go back, and comes by the same times again
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
        if first.astimezone(zone).replace(tzinfo=None) != wall:  # skipped by the clock: PEP 495, fold=0 is past the gap
            return [] if self._follows_clock else [_end_of_gap(first, zone)]
        return [first, second] if self._follows_clock and second > first else [first]

    @property
    def _follows_clock(self) -> bool:
        return self.line.split()[1].startswith("*")

    def describe(self) -> str:
        """In words: `at 03:17`."""
        words = get_description(self.line, OPTIONS)
        return words[:1].lower() + words[1:]

    def __str__(self) -> str:
        return f"cron {self.line}"


def ticks_between(timing: Timing, after: datetime, until: datetime, limit: int) -> list[datetime]:
    """The ticks in (after, until], the first `limit` of them."""

    def ticks() -> Iterator[datetime]:
        tick = timing.next_tick(after)
        while tick <= until:
            yield tick
            tick = timing.next_tick(tick)

    return list(islice(ticks(), limit))


def last_tick(timing: Timing, tick: datetime, until: datetime) -> datetime:
    """The newest tick at or before `until`, found in few steps, when `tick` is one of them."""
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
    """The instant at which a skipped hour ends, found from any instant less than a gap's length past it."""
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
