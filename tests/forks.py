"""Children of the test's own process: one that goes its way, and one that fails at a step that the test chooses."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import redis
import sqlalchemy as sa
from redis.client import Pipeline


def fork(function: Callable[[], object]) -> int:
    """Runs `function` in a child process, which ends with status 0, or 1 when it raised.

    Returns:
        its process id; the caller waits for its end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of the test runner's own threads, which the child never uses
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # never back into the test runner


def exit_status(pid: int) -> int:
    """Waits for a child's end: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_with_fault(engine: sa.Engine, number: int, *, kills: bool, function: Callable[[], object]) -> list[str]:
    """Runs `function` in a child process and interferes with one of its steps: a command or a pipeline of Redis, a
    statement or a commit of the database.

    Args:
        engine: the database's.
        number: the step, from 1.
        kills: the child is killed before the step; otherwise the step takes effect and its answer is lost. A death
            after a step is one before the next: nothing lies in between that another process could see.
        function: what the child does; it has to survive a lost answer.

    Returns:
        the steps that the child took, with the one it was killed before: fewer than `number` when it never came there.
    """
    reading, writing = os.pipe()

    def child() -> None:
        _interfere(engine, number, kills, writing)
        function()

    pid = fork(child)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        steps = pipe.read().splitlines()
    status = exit_status(pid)
    is_killed = kills and len(steps) >= number
    assert status == (-signal.SIGKILL if is_killed else 0), f"the child ended with {status} after {steps}"
    return steps


def _interfere(engine: sa.Engine, number: int, kills: bool, report: int) -> None:
    count = 0

    def watch(owner: Any, name: str, lost: type[Exception]) -> None:
        function = getattr(owner, name)

        def step(*args: Any, **options: Any) -> Any:
            nonlocal count
            said = " ".join(" ".join(str(arg) for arg in args[1:3]).split())
            if said.startswith("BEGIN"):
                return function(*args, **options)  # changes nothing
            count += 1
            is_chosen = count == number
            os.write(report, f"{name} {said[:80]}\n".encode())
            if is_chosen and kills:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = function(*args, **options)
            if is_chosen:
                raise lost("the answer was lost")
            return answer

        setattr(owner, name, step)

    watch(redis.Redis, "execute_command", redis.ConnectionError)
    watch(Pipeline, "execute", redis.ConnectionError)
    for name in ("do_execute", "do_execute_no_params", "do_executemany", "do_commit"):
        watch(engine.dialect, name, engine.dialect.loaded_dbapi.OperationalError)
