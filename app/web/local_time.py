"""Conversion between UTC and local times, as typed in forms; not every local time exists."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def utc_from_local(local: datetime, zone: ZoneInfo) -> datetime:
    """Convert a naive local time of `zone` to UTC.

    A time that occurs twice, in autumn, means the first one.

    Raises:
        ValueError: the time does not exist, in spring, or is beyond the calendar.
    """
    try:
        moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
        shown = local_from_utc(moment, zone)
    except OverflowError as error:
        raise ValueError("is beyond the calendar") from error
    if shown != local:
        raise ValueError(f"does not exist: the clocks of {zone.key} go forward then; {shown:%H:%M} does")
    return moment


def local_from_utc(moment: datetime, zone: ZoneInfo) -> datetime:
    """Convert a time to the naive local time of `zone`."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)
