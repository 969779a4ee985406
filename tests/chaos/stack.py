"""The real stack on real servers: what the Procfile starts, on PostgreSQL, Valkey, and SMTP and FCM servers that can
fail."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_migrate import upgrade

import jobs
from app import create_app
from app.accounts import Role, User, issue_personal_token
from app.push import Device, DeviceKind
from app.schools import create_school, default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import WorkerProcess
from tests.chaos.book import Fate, read_book
from tests.chaos.domain import create_tables
from tests.chaos.plan import Kind, Prefetch
from tests.chaos.services import ROOT, Kill, Manager, Service, environment
from tests.fcm import FcmServer
from tests.servers import PostgresServer, ValkeyServer, free_port, short_folder, wait_until
from tests.smtp import SmtpServer

CHAOS_ROOT = "tests.chaos.root"
SCHEDULERS = ("scheduler-1", "scheduler-2")
START_SECONDS = 120
POOL_PROCESSES = 2
# How many people each school has. Every second one has a device, every tenth of these has two.
PEOPLE = (200, 60, 60)
# How many processes of each service send heartbeats.
HEARTBEATS = {"light": 1, "pool": POOL_PROCESSES, "heavy": 1, **dict.fromkeys(SCHEDULERS, 1)}

SETTINGS = {
    "APP_ENV": "production",
    "SECRET_KEY": "a-secret-key-that-is-only-good-for-chaos",
    "PUBLIC_URL": "http://127.0.0.1",
    "ADMIN_EMAIL": "desk@example.org",
    "LOG_LEVEL": "INFO",
    # One user makes more than a person does.
    "RATE_LIMITS_ENABLED": "false",
    "MAIL_SERVER": "127.0.0.1",
    "MAIL_TIMEOUT_SECONDS": "2",
    # So many that no fault outlasts them: what fails has failed for another reason.
    "MAIL_RETRY_DELAYS_SECONDS": "1,1,2,2,3,3,4,4,5,5,5,5,5,5,5,5",
    "SHUTDOWN_GRACE_SECONDS": "5",
    "OVERDUE_SWEEP_SECONDS": "2",
    "SCHEDULED_NOTIFICATIONS_SWEEP_SECONDS": "5",
    "WEB_THREADS": "8",
}


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Args:
        services: the names of those that run.
        kinds: the faults to draw from.
        pace: how they follow each other.
        settings: what differs from SETTINGS.
        load_threads: how many make transactions.
        notifiers, operators: how many make transactions about notifications, and bulk operations.
        load_pause_seconds: the mean pause of each between two.
        settle_seconds: how long everything may take to end after the last fault.
    """

    services: tuple[str, ...]
    kinds: tuple[Kind, ...]
    pace: Prefetch
    settings: Mapping[str, str]
    load_threads: int
    notifiers: int
    operators: int
    load_pause_seconds: float
    settle_seconds: float


class Stack:
    """What faults strike.

    Args:
        app: the application, for looking into its database.
        valkey, postgres, smtp, fcm: the servers.
        manager: the processes.
    """

    def __init__(
        self,
        app: Flask,
        valkey: ValkeyServer,
        postgres: PostgresServer,
        smtp: SmtpServer,
        fcm: FcmServer,
        manager: Manager,
    ) -> None:
        self.app = app
        self.valkey = valkey
        self.postgres = postgres
        self.smtp = smtp
        self.fcm = fcm
        self.manager = manager
        # Moments that restart the time of a rescue: an outage is over, a process was frozen with an id in its hands.
        self.stalls: list[float] = []
        self.freezes: list[Kill] = []
        # What broke a promise that is in no book.
        self.notes: list[str] = []
        # Servers that are away cannot be struck a second time.
        self.locks = {name: threading.Lock() for name in ("valkey", "postgres", "smtp", "fcm")}

    @property
    def grace_seconds(self) -> float:
        """How long a process may take to end when it is asked to."""
        return self.app.config["SHUTDOWN_GRACE_SECONDS"]

    def wait_until_ready(self) -> None:
        """Waits until every process has begun to work."""
        wait_until(self._is_ready, seconds=START_SECONDS, every=0.1)

    def _is_ready(self) -> bool:
        with self.app.app_context():
            alive = db.session.scalar(sa.select(sa.func.count(WorkerProcess.name))) or 0
        return alive >= sum(HEARTBEATS.get(name, 0) for name in self.manager.services)


@contextlib.contextmanager
def stack(folder: Path, seed: str, scale: Scale) -> Iterator[Stack]:
    """Everything, started; ended whatever happens.

    Args:
        folder: where the logs and the load's book go.
        seed: of the load.
        scale: how much.
    """
    with contextlib.ExitStack() as cleanup:
        valkey = ValkeyServer(cleanup.enter_context(short_folder()))
        valkey.start()
        cleanup.callback(valkey.stop)
        postgres = PostgresServer(cleanup.enter_context(short_folder()))
        cleanup.callback(postgres.stop)
        smtp = SmtpServer(delay_seconds=0.1).start()
        cleanup.callback(smtp.stop)
        fcm = FcmServer(latency_seconds=0.05).start()
        cleanup.callback(fcm.stop)
        settings = {
            **SETTINGS,
            **scale.settings,
            **fcm.settings(folder),
            "DATABASE_URL": postgres.url(postgres.create()),
            "REDIS_URL": valkey.url,
            "MAIL_PORT": str(smtp.port),
            "PORT": str(free_port()),
        }
        app = create_app(environ={**settings, "LOG_LEVEL": "ERROR"}, instance_path=folder)
        jobs.init_app(app)
        tokens = _prepare_database(app)
        cleanup.callback(_close, app)
        url = f"http://127.0.0.1:{settings['PORT']}"
        load = {
            "seed": seed,
            "book": str(folder / "book.txt"),
            "url": url,
            "tokens": tokens,
            "threads": scale.load_threads,
            "notifiers": scale.notifiers,
            "operators": scale.operators,
            "pause_seconds": scale.load_pause_seconds,
        }
        environ = {**environment(), **settings, "CHAOS_LOAD": json.dumps(load)}
        manager = Manager([_service(name, environ, folder) for name in scale.services])
        cleanup.callback(manager.kill_all)
        manager.start()
        running = Stack(app, valkey, postgres, smtp, fcm, manager)
        running.wait_until_ready()
        # With nothing committed, nothing would be tested.
        wait_until(lambda: Fate.COMMITTED in read_book(folder / "book.txt").values(), seconds=START_SECONDS, every=0.1)
        yield running


def _service(name: str, environ: Mapping[str, str], folder: Path) -> Service:
    if name == "pool":
        environ = {**environ, "WORKER_PROCESSES": str(POOL_PROCESSES)}
    return Service(name, _commands()[name], environ, folder / f"{name}.log")


def _commands() -> dict[str, str]:
    """The lines of the Procfile, over the chaos's composition root."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    web = lines["web"].replace("0.0.0.0", "127.0.0.1").replace("wsgi", CHAOS_ROOT)
    command = 'python -c "import cli, tests.chaos.domain; cli.main(cli.create())"'
    worker, heavy = (lines[name].replace("python cli.py", command) for name in ("worker", "heavy"))
    program = "import cli, scheduler, tests.chaos.domain; scheduler.main(cli.create())"
    return {
        "web": web,
        "light": worker,
        "pool": worker,
        "heavy": heavy,
        **dict.fromkeys(SCHEDULERS, f'python -c "{program}"'),
        "load": "python -m tests.chaos.load",
    }


def _prepare_database(app: Flask) -> dict[int, str]:
    """Migrates, makes schools with people and devices, and the chaos's tables; returns an access token of each school's
    staff."""
    with app.app_context():
        upgrade(str(ROOT / "migrations"))
        create_tables(db.engine)
        schools = [default_school(), *(create_school(f"School {number}", f"school-{number}") for number in (2, 3))]
        tokens = {school.id: _people(school.id, count) for school, count in zip(schools, PEOPLE, strict=True)}
        db.session.commit()
    return tokens


def _people(school_id: int, count: int) -> str:
    common = {"school_id": school_id, "password_hash": "!", "confirmed_at": utc_now()}
    staff = _person(f"s{school_id}-staff", name="Staff", role=Role.STAFF, **common)
    people = [_person(f"s{school_id}-person{number}", **common) for number in range(count)]
    db.session.add_all([staff, *people])
    db.session.flush()
    for number, person in enumerate(people):
        for device in range((number % 2 == 0) + (number % 20 == 0)):
            token = f"s{school_id}-u{person.id}-d{device}"
            db.session.add(Device(user_id=person.id, kind=DeviceKind.TOKEN, token=token))
    token, _ = issue_personal_token(staff, "chaos", ["write"])
    return token


def _person(username: str, **values: Any) -> User:
    email = f"{username}@example.org"
    return User(**{"username": username, "email": email, "name": username} | values)


def _close(app: Flask) -> None:
    with app.app_context():
        db.session.remove()
        db.engine.dispose()
