"""Deaths of processes: what killed one, and seeing to it that a child does not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_SECONDS = 1.0


def cause_of_death(exit_code: int) -> str:
    """How a process ended, from its exit code, which is negative for a signal: "SIGKILL", "exit 1"."""
    if exit_code >= 0:
        return f"exit {exit_code}"
    names = {known.value: known.name for known in signal.Signals}
    return names.get(-exit_code, f"signal {-exit_code}")


def follow(parent: int, number: signal.Signals) -> None:
    """Has this process get a signal when its parent is dead, however it died.

    Args:
        parent: the process id of the parent, as its child has learned it from the parent itself.
        number: the signal.
    """
    if not _ask_kernel(number):
        threading.Thread(target=_watch, args=(parent, number), name="follower", daemon=True).start()
    elif os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), number)


def _ask_kernel(number: signal.Signals) -> bool:
    """Linux only. Also reaches a process that sits in native code, where no thread of Python runs."""
    try:
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number) == 0
    except AttributeError:
        return False


def _watch(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), number)
