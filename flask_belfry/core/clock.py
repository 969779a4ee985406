"""The database's clock as this process estimates it: the clocks of hosts differ, and one alone decides what is due."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import event

MEASURE_SECONDS = 30.0
# Goes on while the host is suspended, and is not set: a step of the host's clock does not move the estimate.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseTime:
    """What `utc_now` reads: the host's clock until a server has shown its own, and with SQLite, which has no other."""

    def __init__(self) -> None:
        self._offset: float | None = None  # the database's seconds since the epoch, less the elapsed ones
        self._measured_at = -math.inf

    def now(self) -> datetime:
        """The current moment, an aware UTC datetime."""
        if self._offset is None:
            return datetime.now(UTC)
        return datetime.fromtimestamp(_elapsed() + self._offset, UTC)

    def use_host(self, connection: object = None) -> None:
        """Makes the host's clock the one that counts."""
        self._offset, self._measured_at = None, -math.inf

    def measure_if_due(self, connection: sa.Connection) -> None:
        """Compares with the server's clock, at most every 30 s, at the beginning of a transaction."""
        began_at = _elapsed()
        if began_at - self._measured_at < MEASURE_SECONDS:
            return
        moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        ended_at = _elapsed()
        low, high = moment.timestamp() - ended_at, moment.timestamp() - began_at
        # The server read its clock at any moment in between: an estimate that this does not disprove stays.
        if self._offset is None or not low <= self._offset <= high:
            self._offset = (low + high) / 2
        self._measured_at = ended_at


database_time = DatabaseTime()


def listen(engine: sa.Engine) -> None:
    """Keeps `database_time` close to the clock of the engine's database."""
    is_server = engine.dialect.name == "postgresql"
    event.listen(engine, "begin", database_time.measure_if_due if is_server else database_time.use_host)


def utc_now() -> datetime:
    """The present moment as an aware UTC datetime, by the database's clock as far as the process knows it."""
    return database_time.now()


def _elapsed() -> float:
    return time.clock_gettime(_ELAPSED)
