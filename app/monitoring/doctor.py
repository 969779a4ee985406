"""The examination behind `flask doctor`: each part is looked at for real, and a finding says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import db
from app.mail import MailError, check_connection
from app.outbox import QUEUES, Deployment, ForeignBrokerError, WorkerProcess, publisher, scheduler_passes


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    part: str
    is_well: bool
    message: str

    def as_dict(self) -> dict[str, object]:
        """As plain JSON."""
        return asdict(self)


def examine(app: Flask) -> list[Finding]:
    """Looks at every part, within the current application context."""
    database = _look("database", _database)
    # Without a database nothing can be said of what lives in it.
    if not database.is_well:
        return [_settings(app), database, _look("broker", _broker), _look("smtp", _smtp)]
    return [
        _settings(app),
        database,
        _look("migrations", lambda: _migrations(app)),
        _look("broker", _own_broker),
        *(_look(f"queue {queue}", lambda queue=queue: _workers_of(app, queue)) for queue in QUEUES),
        _look("scheduler", lambda: _scheduler(app)),
        _look("smtp", _smtp),
    ]


class _NotWellError(Exception):
    """The message of a finding."""


def _look(part: str, examination: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, examination())
    except (_NotWellError, MailError) as error:
        return Finding(part, False, str(error))
    except SQLAlchemyError as error:
        db.session.rollback()
        return Finding(part, False, f"the database does not answer ({type(error).__name__}): check DATABASE_URL")
    except ForeignBrokerError as error:
        return Finding(part, False, str(error))
    except redis.ResponseError as error:
        return Finding(part, False, f"refuses what the processes need of it: {error}")
    except redis.RedisError as error:
        return Finding(part, False, f"{error}: start Redis or Valkey, or check REDIS_URL; jobs wait in the database")


def _settings(app: Flask) -> Finding:
    # A wrong setting stops the start, so whoever gets here has good ones.
    return Finding("settings", True, f"APP_ENV={app.config['APP_ENV']}")


def _database() -> str:
    db.session.execute(sa.text("SELECT 1"))
    return db.engine.dialect.name


def _migrations(app: Flask) -> str:
    script = ScriptDirectory(str(Path(app.root_path).parent / "migrations"))
    present = set(MigrationContext.configure(db.session.connection()).get_current_heads())
    if present != set(script.get_heads()):
        raise _NotWellError("the schema is behind the code: run `flask --app wsgi db upgrade`")
    return "up to date"


def _broker() -> str:
    publisher().probe()
    waiting = {queue: int(publisher().connection.llen(f"rq:queue:{queue}")) for queue in QUEUES}
    return "answers; waiting: " + ", ".join(f"{queue} {count}" for queue, count in waiting.items())


def _own_broker() -> str:
    publisher().ownership.learn(db.session())
    publisher().ownership.check(publisher().connection, every_seconds=0)
    return _broker()


def _workers_of(app: Flask, queue: str) -> str:
    rows = _fresh(app, WorkerProcess.queues != "")
    names = [row.name for row in rows if queue in row.queues.split(",")]
    if not names:
        flag = " --heavy" if queue == "heavy" else ""
        raise _NotWellError(f"no worker: start `flask --app wsgi jobs worker{flag}`")
    return f"{len(names)} worker{'s' if len(names) > 1 else ''}"


def _scheduler(app: Flask) -> str:
    if not _fresh(app, WorkerProcess.kind == "scheduler"):
        raise _NotWellError("none runs: start `python scheduler.py`; retries and schedules wait")
    if not scheduler_passes(db.session()):
        refusal = db.session.scalar(sa.select(Deployment.scheduler_error))
        raise _NotWellError(f"does not finish its passes ({refusal or 'no error is on record'})")
    return "runs"


def _smtp() -> str:
    return check_connection()


def _fresh(app: Flask, *conditions: sa.ColumnElement[bool]) -> list[WorkerProcess]:
    is_alive = WorkerProcess.is_alive(app.config["RESCUE_AFTER_SECONDS"])
    return list(db.session.scalars(sa.select(WorkerProcess).where(is_alive, *conditions)))
