"""Belfry and its peers: how each is prepared and started. Their tasks are in cases/."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis

from bench.figures import BELFRY as BELFRY_NAME
from bench.ground import ROOT, Command, Ground
from bench.venvs import PEERS, bin_of

PROCESSES = 2
# Our Procfile's, for both, but for the class of the worker.
GUNICORN = ("--no-control-socket", "--threads", "8", "--timeout", "60")
CELERY_OPTIONS = ("worker", "--concurrency", str(PROCESSES), "--loglevel", "ERROR")


class Contestant:
    """A program under measurement, with the commands that a person would type.

    Args:
        name: in figures.
        cwd: where its commands run.
        programs: where its programs are, asked for when they are first needed.
        workers: the commands that start PROCESSES processes, under a parent where that is its way.
        environ: its settings.
    """

    def __init__(
        self,
        name: str,
        cwd: Path,
        programs: Callable[[], Path],
        workers: Sequence[Command],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._cwd = cwd
        self._programs = programs
        self._workers = workers
        self._environ = environ or {}

    def start(self, ground: Ground, *commands: Command) -> list[int]:
        """Starts programs; returns the ids of their processes."""
        folder = self._programs()
        return [ground.start([folder / name, *rest], self._cwd, self._environ) for name, *rest in commands]

    def start_workers(self, ground: Ground) -> list[int]:
        """Starts the worker processes."""
        return self.start(ground, *self._workers)

    def run(self, ground: Ground, *arguments: str) -> Any:
        """Runs its Python to the end; returns what that prints as JSON."""
        return ground.run([self._programs() / "python", *arguments], self._cwd, self._environ)


class Desk(Contestant):
    """An application of reservations.

    Args:
        steps: how its Python runs a step of a case.
        application: what gunicorn serves, and the class of its worker.
        others: the rest of a complete installation.
        command: what an operator types.
        options: see `Contestant`.
    """

    def __init__(
        self,
        *,
        steps: Sequence[str],
        application: tuple[str, str],
        others: Sequence[Command],
        command: Command,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._command = command
        self._steps = steps
        self._application = application
        self._others = others

    def step(self, ground: Ground, name: str, number: int = 0) -> Any:
        """Has one step of its steps.py taken, in a process of its own."""
        return self.run(ground, *self._steps, name, str(number))

    def run_command(self, ground: Ground) -> tuple[float, float]:
        """Runs the command to its end; returns its seconds, elapsed and of the processor."""
        name, *rest = self._command
        return ground.time([self._programs() / name, *rest], self._cwd, self._environ)

    def start_web(self, ground: Ground, port: int) -> list[int]:
        """Starts its web server, with one process."""
        application, worker_class = self._application
        options = ("--bind", f"127.0.0.1:{port}", "--worker-class", worker_class, *GUNICORN)
        return self.start(ground, ("gunicorn", application, *options))

    def start_all(self, ground: Ground, port: int) -> list[int]:
        """Starts a complete installation, apart from the database and the broker."""
        return [*self.start_web(ground, port), *self.start_workers(ground), *self.start(ground, *self._others)]


class Queue(Contestant):
    """A job system alone, with a task that does nothing in its tasks.py.

    Args:
        left: how many tasks the broker says are waiting or not acknowledged.
        count: how many are asked for: a slow one need not take minutes.
        options: see `Contestant`.
    """

    def __init__(self, *, left: Callable[[redis.Redis], int], count: int, **options: Any) -> None:
        super().__init__(**options)
        self.left = left
        self.count = count


def _celery_left(broker: Any) -> int:
    return broker.llen("celery") + broker.hlen("unacked")


def _rq_left(broker: Any) -> int:
    return broker.llen("rq:queue:default") + broker.zcard("rq:wip:default")


def _huey_left(broker: Any) -> int:
    return broker.llen("huey.redis.bench")


def _dramatiq_left(broker: Any) -> int:
    return broker.hlen("dramatiq:default.msgs")


def _peer(folder: str) -> Callable[[], Path]:
    return partial(bin_of, folder, PEERS / folder / "requirements.txt")


def _queue(name: str, folder: str, workers: Sequence[Command], left: Callable[[Any], int], count: int) -> Queue:
    return Queue(name=name, cwd=PEERS / folder, programs=_peer(folder), workers=workers, left=left, count=count)


def _belfry(programs: Callable[[], Path]) -> Desk:
    return Desk(
        name=BELFRY_NAME,
        cwd=ROOT,
        programs=programs,
        environ={
            "APP_ENV": "production",
            "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
            "PUBLIC_URL": "http://desk.example",
            "MAIL_SERVER": "127.0.0.1",
            "LOG_LEVEL": "ERROR",
            # One address registers more people than a school does.
            "RATE_LIMITS_ENABLED": "false",
            # A busy machine must not open the circuit breaker: what was not pushed would wait for a relay.
            "BROKER_CONNECT_TIMEOUT_SECONDS": "2",
            "BROKER_TIMEOUT_SECONDS": "2",
        },
        steps=("-m", "bench.belfry.steps"),
        application=("wsgi:app", "webserver.BufferingWorker"),
        workers=[("python", "-m", "bench.belfry.root", "jobs", "worker", "--processes", str(PROCESSES))],
        others=[("python", "cli.py", "jobs", "worker", "--heavy"), ("python", "scheduler.py")],
        command=("python", "cli.py", "jobs", "stats"),
    )


# As it is installed where it serves, like the peers; what developers install beside it takes memory in each process.
BELFRY = _belfry(partial(bin_of, BELFRY_NAME, ROOT / "requirements.txt"))
# As it is installed here, which needs no package index.
BELFRY_HERE = _belfry(lambda: Path(sys.executable).parent)
DJANGO_CELERY = Desk(
    name="celery",
    cwd=PEERS / "django_celery",
    programs=_peer("django_celery"),
    steps=("steps.py",),
    application=("desk.wsgi:application", "gthread"),
    workers=[("celery", "-A", "desk", *CELERY_OPTIONS)],
    others=[("celery", "-A", "desk", "beat", "--loglevel", "ERROR")],
    command=("python", "-m", "django", "check", "--settings", "desk.settings"),
)

# It listens to the worker, which does the tasks of Celery alone.
FLOWER = Contestant(
    name="flower",
    cwd=PEERS / "celery",
    programs=_peer("celery_flower"),
    workers=[("celery", "-A", "tasks", *CELERY_OPTIONS, "--task-events")],
    environ={"FLOWER_UNAUTHENTICATED_API": "true"},
)

RQ_WORKER = ("rq", "worker", "--serializer", "rq.serializers.JSONSerializer", "--logging_level", "ERROR")
RQ_SIMPLE_WORKER = (*RQ_WORKER, "--worker-class", "rq.SimpleWorker")
HUEY_CONSUMER = ("huey_consumer", "tasks.huey", "--quiet")
DRAMATIQ = ("dramatiq", "tasks", "--processes", str(PROCESSES))
QUEUES = (
    _queue("celery", "celery", [("celery", "-A", "tasks", *CELERY_OPTIONS)], _celery_left, 6_000),
    _queue("rq", "rq", [RQ_WORKER] * PROCESSES, _rq_left, 400),
    _queue("rq_simple", "rq", [RQ_SIMPLE_WORKER] * PROCESSES, _rq_left, 2_000),
    _queue("huey", "huey", [HUEY_CONSUMER] * PROCESSES, _huey_left, 20_000),
    _queue("dramatiq", "dramatiq", [DRAMATIQ], _dramatiq_left, 20_000),
)
