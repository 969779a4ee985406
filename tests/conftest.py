"""The fixtures that all tests share: an application over each database, a real broker, and the test's own domain."""

from __future__ import annotations

import gc
import logging
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from redis.utils import get_lib_version
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.accounts import security
from flask_belfry.core.clock import DatabaseTime
from flask_belfry.db import Base, db, table_of
from flask_belfry.mail import close_connections
from flask_belfry.workers.threaded import ThreadedWorker
from tests.applications import compiled_rules, make_app
from tests.domain import Ticket
from tests.processes import Processes
from tests.servers import PostgresServer, ValkeyServer, short_folder

DATABASES = ("sqlite", "postgresql")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests: at the end, one core would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def quick_password_hashes() -> Iterator[None]:
    """Argon2 at its least cost, because each test logs in; accounts/test_services.py is about its real cost."""
    least = {"argon2__time_cost": 1, "argon2__memory_cost": 8, "argon2__parallelism": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(security.SETTINGS, "PASSWORD_HASH_PASSLIB_OPTIONS", least)
        yield


@pytest.fixture(scope="session")
def logging_errors() -> Iterator[IO[str]]:
    """The file to which this process, and those that it forks, write the errors of logging handlers."""
    handle = logging.Handler.handleError
    with tempfile.TemporaryFile("a+") as errors, pytest.MonkeyPatch.context() as patch:

        def note(handler: logging.Handler, record: logging.LogRecord) -> None:
            errors.write(f"{record.name}: {record.msg!r}\n{traceback.format_exc()}\n")
            errors.flush()
            handle(handler, record)

        patch.setattr(logging.Handler, "handleError", note)
        yield errors


@pytest.fixture(autouse=True)
def check_logging(logging_errors: IO[str]) -> Iterator[None]:
    """Fails a test in which a line was not written: logging would print the error to stderr and go on."""
    yield
    logging_errors.seek(0)
    if found := logging_errors.read():
        logging_errors.truncate(0)
        pytest.fail(f"lines were not logged:\n{found}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def clock_of_the_tests() -> Iterator[None]:
    """Tests move the clock of this process: here a server's own does not count. In the processes they start it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseTime, "measure_if_due", DatabaseTime.use_host)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_applications() -> Iterator[None]:
    """What all applications share is computed once."""
    version = get_lib_version()  # read from the metadata of the package for each connection
    with compiled_rules(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("redis.utils.get_lib_version", lambda: version)
        yield


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A running Valkey."""
    with short_folder() as folder:
        server = ValkeyServer(folder)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL, in memory where there is room: each test makes a database of its own."""
    with short_folder(in_memory=True) as folder:
        server = PostgresServer(folder, survives_power_cuts=False)
        yield server
        server.stop("immediate")  # its data is not needed


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A migrated SQLite file, in memory where there is room: each test copies it."""
    with short_folder(in_memory=True) as folder:
        path = folder / "template.sqlite3"
        _migrate(f"sqlite:///{path}", tmp_path_factory.mktemp("template"))
        yield path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated PostgreSQL database."""
    name = postgres.create()
    _migrate(postgres.url(name), tmp_path_factory.mktemp("template"))
    return name


@pytest.fixture(scope="session", autouse=True)
def few_collections() -> None:
    """Collect garbage seldom: an application leaves 60,000 objects, of which most are in cycles."""
    gc.set_threshold(200_000, 5, 5)
    _freeze_what_stays()


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a migrated, empty database: every test that uses it runs on both."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        path = template.with_name(f"{uuid4().hex}.sqlite3")
        shutil.copy(template, path)
        yield f"sqlite:///{path}"
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create(request.getfixturevalue("postgres_template"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def broker(valkey: ValkeyServer) -> redis.Redis:
    """A client of an empty broker."""
    client = valkey.client()
    client.flushall()
    return client


@pytest.fixture
def settings(database_url: str, valkey: ValkeyServer, broker: redis.Redis, tmp_path: Path) -> dict[str, Any]:
    """The environment of the test's application; a test changes it before it asks for `app`."""
    return {
        "APP_ENV": "testing",
        "SECRET_KEY": "a-secret-key-that-is-only-good-for-tests",
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey.url,
        "ADMIN_EMAIL": "admin@example.org",
        # Nothing here is about speed: a busy machine must not make the broker look away.
        "BROKER_CONNECT_TIMEOUT_SECONDS": "2",
        "BROKER_TIMEOUT_SECONDS": "2",
    }


@pytest.fixture
def app(settings: dict[str, Any], tmp_path: Path) -> Iterator[Flask]:
    """An application with its jobs, inside its context."""
    app = make_app(settings, tmp_path)
    with app.app_context():
        yield app
        close_connections()
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def session(app: Flask) -> Session:
    """The application's session."""
    return db.session()


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """The SQL that runs from here on, without what only begins transactions and savepoints, and what a process asks
    its database once."""
    seen: list[str] = []

    def see(connection: object, cursor: object, statement: str, *_: object) -> None:
        is_of_process = "FROM deployments" in statement or "pg_control_system" in statement
        if not is_of_process and not statement.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "PRAGMA")):
            seen.append(statement)

    event.listen(db.engine, "before_cursor_execute", see)
    yield seen
    event.remove(db.engine, "before_cursor_execute", see)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser without cookies yet; forms need no CSRF token here (other tests see to that)."""
    app.config["WTF_CSRF_ENABLED"] = False
    return app.test_client()


@pytest.fixture
def work(app: Flask, valkey: ValkeyServer) -> Iterator[Callable[[], None]]:
    """Runs a real light worker in this process until the queues are empty."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run() -> None:
        db.session.rollback()
        ThreadedWorker(["mail", "default", "bulk"], connection=valkey.client()).work(burst=True)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def processes(app: Flask, settings: dict[str, Any], tmp_path: Path) -> Iterator[Processes]:
    """Starts real processes over the same database and broker."""
    running = Processes(settings, tmp_path)
    yield running
    running.kill_all()


def _migrate(url: str, folder: Path) -> None:
    environ = {"APP_ENV": "testing", "DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1"}
    with make_app(environ, folder).app_context():
        upgrade()
        Base.metadata.create_all(db.engine, tables=[table_of(Ticket)])
        db.engine.dispose()
    _freeze_what_stays()


def _freeze_what_stays() -> None:
    """Exclude what exists from garbage collection: to look through all imports takes longer than some tests."""
    gc.collect()
    gc.freeze()
