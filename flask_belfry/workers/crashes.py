"""Deaths of processes: what killed or froze one, and seeing to it that a child does not outlive its parent."""

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


def crashed_thread(dump: str) -> int:
    """Python's id of the thread that a fatal signal was for, from what faulthandler wrote; 0 when it wrote none."""
    found = re.findall(r"^Current thread 0x([0-9a-f]+)", dump, re.MULTILINE)
    return int(found[-1], 16) if found else 0  # what a job has forked may have crashed and written before


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or by a debugger."""
    return _stat(pid, pid)[0] in ("T", "t")


def busiest_thread(pid: int, threads: Sequence[int], seconds: float) -> int:
    """The thread, of these threads of a process, that computes while the others hardly do; 0 when there is none.

    Args:
        pid: the process.
        threads: the kernel's ids of the threads.
        seconds: how long to watch them.
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
    """The fields behind the name, which may hold anything. Linux only; elsewhere all threads look alike."""
    try:
        return Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["?", *["0"] * 12]
