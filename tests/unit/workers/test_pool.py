"""When the parent considers a worker frozen, by a clock that the tests move; what a board shows of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from flask_belfry.workers import pool
from flask_belfry.workers.board import Board, RunningThread
from flask_belfry.workers.crashes import busiest_thread, crashed_thread, is_stopped
from tests.servers import wait_until

UNUSED: Any = None


@pytest.fixture
def watch(monkeypatch):
    """Have a parent check a worker at these times; return for how long it was frozen when it was killed."""

    def look(moments: list[float], pulses: list[int]) -> list[float]:
        app: Any = SimpleNamespace(config={"WORKER_FROZEN_SECONDS": 30.0, "HEARTBEAT_SECONDS": 60.0})
        killed: list[float] = []
        now = iter(moments)
        monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: next(now)))
        parent = pool.Pool(app, object, None, [], UNUSED, count=1, burst=False)
        board: Any = SimpleNamespace(pulse=0, name="w")
        process: Any = SimpleNamespace(pid=os.getpid())
        child = pool._Child(process, board, UNUSED, is_quarantine=False, moved_at=moments[0], started_at=0)
        parent._children = [child]
        monkeypatch.setattr(parent, "_end_frozen", lambda child, seconds: killed.append(seconds))
        for board.pulse in pulses:
            parent._watch()
        return killed

    return look


def test_a_worker_whose_pulse_stood_still_for_long_is_killed(watch):
    assert watch([0, *range(1, 33)], [1, *[1] * 31]) == [31]


def test_a_worker_whose_pulse_moves_now_and_then_is_not(watch):
    assert watch([0, *range(1, 61)], [n // 29 for n in range(60)]) == []


def test_a_parent_that_was_stopped_itself_begins_to_count_again(watch):
    assert watch([0, *range(1, 21), *range(80, 101)], [1] * 41) == []


def test_in_burst_no_worker_starts_before_a_crashed_ones_jobs_are_back(monkeypatch):
    app: Any = SimpleNamespace(config={})
    parent = pool.Pool(app, object, None, [], UNUSED, count=1, burst=True)
    started: list[type] = []
    monkeypatch.setattr(parent, "_start", started.append)
    cleanup: Any = SimpleNamespace()
    parent._cleanups = [cleanup]
    parent._start_missing()
    assert started == []  # it would find the queues empty, and end
    parent._cleanups = []
    parent._start_missing()
    assert started == [object]


def test_a_board_shows_what_the_threads_run():
    board = Board(threads=2, most=3)
    ids = [str(uuid4()) for _ in range(3)]
    assert not board.is_watched
    board.name = "light-host-1"
    with board.running(ids):
        here = RunningThread(threading.get_native_id(), threading.get_ident(), tuple(ids))
        assert (board.name, board.read()) == ("light-host-1", [here])
        other = threading.Thread(target=lambda: seen.extend(show(board)))
        seen: list[RunningThread] = []
        other.start()
        other.join()
        assert len(seen) == 2
    assert board.read() == []


def show(board: Board) -> list[RunningThread]:
    with board.running([str(uuid4())]):
        return board.read()


def test_the_thread_that_crashed_is_distinguished_from_the_others():
    dump = "Fatal Python error: Segmentation fault\n\nThread 0x00007f01 (most recent call first):\n  File x\n\n"
    assert crashed_thread(dump + "Current thread 0x00007fa2 (most recent call first):\n  File y\n") == 0x7FA2
    assert crashed_thread(dump) == 0


def test_a_stopped_process_and_a_busy_thread_are_known():
    with subprocess.Popen(["sh", "-c", "kill -STOP $$; while :; do :; done"]) as process:
        try:
            wait_until(lambda: is_stopped(process.pid), seconds=10)
            assert busiest_thread(process.pid, [process.pid], 0.2) == 0
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: busiest_thread(process.pid, [process.pid], 0.2) == process.pid, seconds=10)
            assert not is_stopped(process.pid)
        finally:
            process.kill()
