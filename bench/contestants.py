"""Belfry and its peers: how each is prepared and started. What they are asked for stands in cases/."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import redis

from bench.ground import ROOT, Ground
from bench.venvs import PEERS, bin_of

PROCESSES = 2
Command = Sequence[str | Path]


class Contestant:
    """A program under measurement, with the commands that a person would type."""

    name: str
    cwd: Path
    environ: Mapping[str, str]
    bin: Path
    workers: Sequence[Command]

    def start_workers(self, ground: Ground) -> None:
        """Starts PROCESSES worker processes, under a parent where that is the contestant's way."""
        for command in self.workers:
            self.start(ground, command)

    def start(self, ground: Ground, command: Command) -> None:
        """Starts a program of the contestant's environment."""
        ground.start([self.bin / command[0], *command[1:]], self.cwd, self.environ)

    def run(self, ground: Ground, *command: str) -> Any:
        """Runs its Python to the end; returns what that prints as JSON."""
        return ground.run([self.bin / "python", *command], self.cwd, self.environ)


class Desk(Contestant):
    """An application of reservations: Belfry's, or Django's."""

    steps: Sequence[str]
    web: Command

    def step(self, ground: Ground, name: str, number: int = 0) -> Any:
        """Has one step of the desk's steps.py done, in a process of its own."""
        return self.run(ground, *self.steps, name, str(number))


class Belfry(Desk):
    """This project, with the settings of production."""

    name = "belfry"
    cwd = ROOT
    bin = Path(sys.executable).parent
    steps = ("-m", "bench.belfry.steps")
    workers = (("flask", "jobs", "worker", "--processes", str(PROCESSES)),)
    environ = {
        "APP_ENV": "production",
        "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
        "PUBLIC_URL": "http://desk.example",
        "MAIL_SERVER": "127.0.0.1",
        "FLASK_APP": "bench.belfry.root",
        "LOG_LEVEL": "ERROR",
        # A busy machine must not open the circuit breaker: what was not pushed would wait for a relay.
        "BROKER_CONNECT_TIMEOUT_SECONDS": "2",
        "BROKER_TIMEOUT_SECONDS": "2",
    }


class DjangoCelery(Desk):
    """The same desk in Django and Celery."""

    name = "celery"
    cwd = PEERS / "django_celery"
    environ: Mapping[str, str] = {}
    steps = ("steps.py",)
    workers = (("celery", "-A", "desk", "worker", "--concurrency", str(PROCESSES), "--loglevel", "ERROR"),)

    @cached_property
    def bin(self) -> Path:
        """Its environment, made when it is first needed."""
        return bin_of("django_celery")


BELFRY = Belfry()
DJANGO_CELERY = DjangoCelery()
DESKS = (BELFRY, DJANGO_CELERY)


@dataclass
class Queue(Contestant):
    """A job system alone, with a task that does nothing.

    Args:
        name: in figures.
        folder: under peers/.
        workers: the commands that start PROCESSES processes.
        left: how many tasks the broker says are waiting or not acknowledged.
        share: how many tasks are asked for, as a share of what a fast one gets: a slow one need not take minutes.
    """

    name: str
    folder: str
    workers: Sequence[Command]
    left: Callable[[redis.Redis], int]
    share: float = 1.0
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Its folder."""
        return PEERS / self.folder

    @cached_property
    def bin(self) -> Path:
        """Its environment, made when it is first needed."""
        return bin_of(self.folder)


def _celery_left(broker: redis.Redis) -> int:
    return broker.llen("celery") + broker.hlen("unacked")


def _rq_left(broker: redis.Redis) -> int:
    return broker.llen("rq:queue:default") + broker.zcard("rq:wip:default")


def _huey_left(broker: redis.Redis) -> int:
    return broker.llen("huey.redis.bench")


def _dramatiq_left(broker: redis.Redis) -> int:
    return broker.hlen("dramatiq:default.msgs")


RQ_WORKER = ("rq", "worker", "--serializer", "rq.serializers.JSONSerializer", "--logging_level", "ERROR")
QUEUES = (
    Queue(
        "celery",
        "celery",
        [("celery", "-A", "tasks", "worker", "--concurrency", str(PROCESSES), "--loglevel", "ERROR")],
        _celery_left,
    ),
    Queue("rq", "rq", [RQ_WORKER] * PROCESSES, _rq_left, share=0.05),
    Queue("rq_simple", "rq", [(*RQ_WORKER, "--worker-class", "rq.SimpleWorker")] * PROCESSES, _rq_left, share=0.2),
    Queue("huey", "huey", [("huey_consumer", "tasks.huey", "--quiet")] * PROCESSES, _huey_left),
    Queue("dramatiq", "dramatiq", [("dramatiq", "tasks", "--processes", str(PROCESSES))], _dramatiq_left),
)
