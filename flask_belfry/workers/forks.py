"""Processes that a job forks: they begin with the signals of any program, not with the worker's."""

from __future__ import annotations

import os
import signal
import threading

# The worker's handlers ask it to stop, or time its job: a child that kept them could not be ended.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

_runs_jobs = threading.Event()
_of_thread = threading.local()


def reset_signals_in_forks() -> None:
    """From here on, all that this process forks gets the default handlers, with no signal blocked for them.

    Called where jobs are about to run: a worker that forks for a purpose of its own comes before that. What a job
    starts by `exec` gets the defaults from the system.
    """
    _runs_jobs.set()


def _block() -> None:
    # One that comes before the child has its handlers waits: the worker's would swallow it.
    if _runs_jobs.is_set():
        _of_thread.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def _restore() -> None:
    if _runs_jobs.is_set():
        signal.pthread_sigmask(signal.SIG_SETMASK, _of_thread.blocked)


def _reset() -> None:
    if _runs_jobs.is_set():
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, _of_thread.blocked.difference(HANDLED))


os.register_at_fork(before=_block, after_in_parent=_restore, after_in_child=_reset)
