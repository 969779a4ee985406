"""Default signal handlers for processes that a job forks, in place of the worker's."""

from __future__ import annotations

import os
import signal
import threading

# The worker's handlers stop it, or limit its job's time: a child that inherited them could not be terminated.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

_runs_jobs = threading.Event()
_of_thread = threading.local()


def reset_signals_in_forks() -> None:
    """Give every process that this process forks from now on the default handlers, and block none of these signals.

    Call it before jobs run, and after the forks of the worker itself. Programs started by `exec` get the defaults from
    the system.
    """
    _runs_jobs.set()


def _block() -> None:
    # A signal that arrives before the child has its own handlers waits: the worker's would consume it.
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
