"""The fixtures of tests that move the clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import time_machine

from app.columns import utc_now


@pytest.fixture
def clock() -> Iterator[time_machine.Coordinates]:
    """The time, which a test moves; it begins right after a full minute."""
    start = utc_now().replace(second=1, microsecond=0)
    with time_machine.travel(start, tick=False) as coordinates:
        yield coordinates
