"""The fixtures of several modules: the clock, a mail server, a broker to stop, a database without tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine

from flask_belfry.core.clock import utc_now
from tests.conftest import DATABASES
from tests.servers import PostgresServer, ValkeyServer, free_port, short_folder
from tests.smtp import SmtpServer


@pytest.fixture
def clock() -> Iterator[time_machine.Coordinates]:
    """The time, which a test moves; it begins right after a full minute."""
    start = utc_now().replace(second=1, microsecond=0)
    with time_machine.travel(start, tick=False) as coordinates:
        yield coordinates


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """A mail server that accepts every mail unless a test has it fail."""
    server = SmtpServer().start()
    yield server
    server.stop()


@pytest.fixture
def another() -> Iterator[ValkeyServer]:
    """A broker that a test may stop, on a socket and on a port."""
    with short_folder() as folder:
        server = ValkeyServer(folder, free_port())
        server.start()
        yield server
        server.kill()


@pytest.fixture(params=DATABASES)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables: every test that uses it runs on both."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)
