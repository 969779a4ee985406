"""The database's clock as this process estimates it: it decides what is due, because the clocks of hosts differ."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import event

MEASURE_SECONDS = 30.0
# It runs while the host is suspended and is never set, so that a step of the host's clock does not move the estimate.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseTime:
    """The clock of `utc_now`: the host's, until a server has sent its own time; always the host's with SQLite."""

    def __init__(self) -> None:
        self._offset: float | None = None  # the database's seconds since the epoch, less the elapsed ones
        self._measured_at = -math.inf

    def now(self) -> datetime:
        """Return the current time as an aware UTC datetime."""
        if self._offset is None:
            return datetime.now(UTC)
        return datetime.fromtimestamp(_elapsed() + self._offset, UTC)

    def use_host(self, connection: object = None) -> None:
        """Use the host's clock."""
        self._offset, self._measured_at = None, -math.inf

    def measure_if_due(self, connection: sa.Connection) -> None:
        """Compare with the server's clock at the beginning of a transaction, at most every 30 s."""
        began_at = _elapsed()
        if began_at - self._measured_at < MEASURE_SECONDS:
            return
        moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        ended_at = _elapsed()
        low, high = moment.timestamp() - ended_at, moment.timestamp() - began_at
        # The server has read its clock between the two: an estimate within these bounds is kept.
        if self._offset is None or not low <= self._offset <= high:
            self._offset = (low + high) / 2
        self._measured_at = ended_at


database_time = DatabaseTime()


def listen(engine: sa.Engine) -> None:
    """Keep `database_time` close to the clock of the engine's database."""
    is_server = engine.dialect.name == "postgresql"
    event.listen(engine, "begin", database_time.measure_if_due if is_server else database_time.use_host)


def utc_now() -> datetime:
    """Return the current time as an aware UTC datetime, by the database's clock as the process estimates it."""
    return database_time.now()


def _elapsed() -> float:
    return time.clock_gettime(_ELAPSED)
