"""Crashes of processes: what killed or froze one, and how a child ends with its parent."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_SECONDS = 1.0
# Of a processor, on a busy machine too. Threads that wait for the interpreter use a hundredth.
BUSY_SHARE = 0.1


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, from its exit code, which is negative for a signal: "SIGKILL", "exit 1"."""
    if exit_code >= 0:
        return f"exit {exit_code}"
    names = {known.value: known.name for known in signal.Signals}
    return names.get(-exit_code, f"signal {-exit_code}")


def follow(parent: int, number: signal.Signals) -> None:
    """Have this process receive a signal when its parent has ended, for any reason.

    Args:
        parent: the process id of the parent, passed by the parent itself.
        number: the signal.
    """
    if not _register_at_kernel(number):
        threading.Thread(target=_watch, args=(parent, number), name="follower", daemon=True).start()
    elif os.getppid() != parent:  # it ended before the registration
        os.kill(os.getpid(), number)


def _register_at_kernel(number: signal.Signals) -> bool:
    """Register at the kernel, on Linux: its signal also reaches a process in native code. Return whether it worked."""
    try:
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number) == 0
    except AttributeError:
        return False


def _watch(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), number)


def crashed_thread(dump: str) -> int:
    """Return Python's id of the thread that received a fatal signal, from faulthandler's output; 0 when it has none."""
    found = re.findall(r"^Current thread 0x([0-9a-f]+)", dump, re.MULTILINE)
    return int(found[-1], 16) if found else 0  # a process that the job forked may have crashed before


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal or by a debugger."""
    return _stat(pid, pid)[0] in ("T", "t")


def busiest_thread(pid: int, threads: Sequence[int], seconds: float) -> int:
    """Return the thread of a process that computes while the others hardly do; 0 when there is none.

    Args:
        pid: the process.
        threads: the kernel's ids of the threads to compare.
        seconds: how long to measure them.
    """
    before = {thread: _ticks(pid, thread) for thread in threads}
    time.sleep(seconds)
    used = sorted(((_ticks(pid, thread) - before[thread], thread) for thread in threads), reverse=True)
    (most, busiest), *others = used or [(0, 0)]
    is_one = most >= BUSY_SHARE * seconds * os.sysconf("SC_CLK_TCK") and (not others or most >= 4 * others[0][0])
    return busiest if is_one else 0


def _ticks(pid: int, thread: int) -> int:
    _, *numbers = _stat(pid, thread)
    return int(numbers[10]) + int(numbers[11])  # utime and stime, proc_pid_stat(5)


def _stat(pid: int, thread: int) -> list[str]:
    """Return the fields after the name, which may contain any character. On Linux; elsewhere all threads look alike."""
    try:
        return Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["?", *["0"] * 12]
