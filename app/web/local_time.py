"""From a clock on the wall to UTC: what a person types in a form is local, and not every local time exists."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def utc_from_local(local: datetime, zone: ZoneInfo) -> datetime:
    """The moment at which the clocks of `zone` show `local` (naive).

    Of a time that the clocks show twice, in autumn, the first is meant.

    Raises:
        ValueError: the clocks skip that time, in spring, or it lies beyond the calendar.
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
    """What the clocks of `zone` show at `moment`, naive."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)
