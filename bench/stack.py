"""A fresh database, broker and SMTP server for one case, and worker processes over them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from flask import Flask
from flask_migrate import upgrade

from app.extensions import db
from app.outbox import ENDED, JobRecord, JobState, WorkerProcess
from tests.servers import PostgresServer, ValkeyServer, short_folder

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 240


class Stack:
    """What one case runs on.

    Args:
        app: the application, in whose context the case runs.
        environ: the same settings for other processes.
        smtp_log: lines of `message-id unix-time`, one per accepted mail.
    """

    def __init__(self, app: Flask, environ: dict[str, str], smtp_log: Path) -> None:
        self.app = app
        self.smtp_log = smtp_log
        self._environ = environ
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_workers(self, count: int) -> None:
        """Starts light workers and waits until they listen."""
        for _ in range(count):
            command = [sys.executable, "-m", "flask", "jobs", "worker"]
            self._processes.append(subprocess.Popen(command, cwd=ROOT, env=self._environ, stderr=subprocess.DEVNULL))
        wait(lambda: self._workers() == count)

    def wait_until_done(self, name: str) -> None:
        """Waits until every job of this name has ended; raises RuntimeError when one did not complete."""
        live = sa.select(JobRecord.id).where(JobRecord.name == name, JobRecord.state.not_in(ENDED)).limit(1)

        def is_done() -> bool:
            found = db.session.execute(live).first()
            db.session.rollback()
            return found is None

        wait(is_done)
        query = sa.select(JobRecord.error_message).where(JobRecord.name == name, JobRecord.state != JobState.COMPLETED)
        if (said := db.session.execute(query.limit(1)).first()) is not None:
            raise RuntimeError(f"{name}: {said[0]}")
        db.session.rollback()

    def rate(self, name: str) -> float:
        """Jobs per second between the first start and the last end."""
        columns = sa.func.count(), sa.func.min(JobRecord.started_at), sa.func.max(JobRecord.finished_at)
        count, first, last = db.session.execute(sa.select(*columns).where(JobRecord.name == name)).one()
        db.session.rollback()
        return count / (last - first).total_seconds()

    def stop(self) -> None:
        """Ends the workers."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)

    def _workers(self) -> int:
        count = db.session.scalar(sa.select(sa.func.count(WorkerProcess.name))) or 0
        db.session.rollback()
        return count


@contextlib.contextmanager
def stack(database: str, smtp_delay_seconds: float = 0.0) -> Iterator[Stack]:
    """Everything for one case, on `sqlite` or `postgresql`; gone afterwards."""
    with contextlib.ExitStack() as cleanup:
        folder = cleanup.enter_context(short_folder())
        valkey = ValkeyServer(cleanup.enter_context(short_folder()))
        valkey.start()
        cleanup.callback(valkey.stop)
        port, smtp_log = _free_port(), folder / "smtp.log"
        smtp = [sys.executable, "-m", "bench.smtp", str(port), str(smtp_delay_seconds), str(smtp_log)]
        server = subprocess.Popen(smtp, cwd=ROOT)
        cleanup.callback(server.wait)
        cleanup.callback(server.terminate)
        environ = dict(os.environ) | {
            "APP_ENV": "development",
            "FLASK_APP": "bench.root",
            "LOG_LEVEL": "ERROR",
            "DATABASE_URL": _database_url(database, folder, cleanup),
            "REDIS_URL": valkey.url,
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(port),
        }
        os.environ.update(environ)
        from bench.root import create_app, jobs  # reads the environment set above

        app = create_app()
        jobs.init_app(app)
        with app.app_context():
            upgrade()
            running = Stack(app, environ, smtp_log)
            try:
                yield running
            finally:
                running.stop()
                db.session.remove()
                db.engine.dispose()


def wait(condition, seconds: float = LIMIT_SECONDS) -> None:
    """Waits until `condition()` holds; raises TimeoutError."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError("the case did not end in time")
        time.sleep(0.05)


def _database_url(database: str, folder: Path, cleanup: contextlib.ExitStack) -> str:
    if database == "sqlite":
        return f"sqlite:///{folder}/bench.sqlite3"
    server = PostgresServer(cleanup.enter_context(short_folder()))
    cleanup.callback(server.stop)
    return server.url(server.create())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
