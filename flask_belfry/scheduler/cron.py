"""The run times of a schedule: pure functions of the clock, so that every scheduler finds the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from flask_belfry.execution.errors import EngineError

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
        try:
            self._times_after(_EPOCH)
        except CronSimError as error:
            raise ScheduleError(
                f"cron must have five fields such as '0 3 * * *', not {self.line!r}: {error}"
            ) from error
        except (KeyError, ValueError, OSError) as error:  # what ZoneInfo raises for various names
            raise ScheduleError(f"{self.zone!r} is not a time zone") from error
        if len(self.line.split()) != 5:  # the library also reads seconds
            raise ScheduleError(f"cron must have five fields such as '0 3 * * *', not {self.line!r}")

    def next_tick(self, after: datetime) -> datetime:
        """Return the first time after `after` that the line matches."""
        tick = next(self._times_after(after), None)
        if tick is None:
            raise ScheduleError(f"{self.line!r} never ticks")
        return tick.astimezone(UTC)

    def _times_after(self, moment: datetime) -> CronSim:
        return CronSim(self.line, moment.astimezone(ZoneInfo(self.zone)))

    def describe(self) -> str:
        """Return words such as `at 03:17 every day`."""
        words = self._times_after(_EPOCH).explain()
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
