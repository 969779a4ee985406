"""`flask jobs watch`: a live view in a terminal, and lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from rich.console import Console
from sqlalchemy.exc import OperationalError

from flask_belfry.core.clock import utc_now
from flask_belfry.operations import watch_cli
from flask_belfry.outbox import JobRecord, JobState, PauseKind, WorkerProcess, batch, enqueue, pause
from tests.processes import ROOT
from tests.servers import wait_until

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_SHOWN, CURSOR_HIDDEN = "\x1b[?25h", "\x1b[?25l"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a pseudo terminal of 120 columns and 50 lines."""

    def __init__(self, environ: dict[str, Any], *words: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        program = "import cli, tests.domain; cli.main(cli.create())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=ROOT,
            # Processes of a parallel run have the width of their terminal in COLUMNS.
            env={**os.environ, **environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.written = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux answers so when the process has ended
                break
            if not data:
                break
            self.written += data.decode(errors="replace")

    @property
    def text(self) -> str:
        return SEQUENCE.sub("", self.written)

    def shows(self, pattern: str) -> Callable[[], bool]:
        def shown() -> bool:
            return re.search(pattern, self.text) is not None

        shown.__name__ = f"{pattern!r} in the terminal"
        return shown

    def end(self) -> int:
        """Wait for the end; return the status."""
        status = self.process.wait(20)
        self._reader.join(20)
        os.close(self._master)
        return status


@pytest.fixture
def terminal(app, settings: dict[str, Any]) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*words: str) -> Terminal:
        started.append(Terminal(settings, "jobs", "watch", *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(10)


def test_a_terminal_shows_queues_processes_and_jobs_until_ctrl_c(session, terminal):
    now = utc_now()
    session.add_all(
        [
            WorkerProcess(name="light-1", kind="light", host="tower", pid=4711, memory_bytes=123_000_000),
            WorkerProcess(name="dead-1", kind="light", host="tower", pid=1, stopped_at=now),
        ]
    )
    enqueue("test.greet", ticket_id=1)
    running = enqueue("test.greet", ticket_id=2)
    pause(session, PauseKind.QUEUE, "mail")
    session.flush()
    record = session.get_one(JobRecord, running)
    record.state, record.worker, record.started_at = JobState.RUNNING, "light-1", now
    record.progress_done, record.progress_total, record.progress_text = 3, 8, "[red]rows\x1b[2J"
    session.commit()
    shown = terminal()
    wait_until(shown.shows(r"default +1 +1 +0 +0 +0\.0"), seconds=30)
    wait_until(shown.shows(r"light-1 +light +tower +4711 +1 +123 MB"), seconds=30)
    wait_until(shown.shows(rf"test\.greet +{running} +default +.* +3 of 8 \[red\]rows"), seconds=30)
    assert "dead-1" not in shown.text
    assert re.search(r"mail .*paused", shown.text)
    assert "\x1b[2J" not in shown.written.split("rows", 1)[1], "what a job reports controls no terminal"
    enqueue("test.greet", ticket_id=3)
    session.commit()
    wait_until(shown.shows(r"default +2 +1 "), seconds=10)
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 0
    assert "Traceback" not in shown.text
    assert shown.written.count(ENTER_SCREEN) == shown.written.count(LEAVE_SCREEN) == 1
    assert shown.written.rindex(CURSOR_SHOWN) > shown.written.rindex(CURSOR_HIDDEN)


@ONCE
def test_the_progress_of_a_batch_is_shown_until_its_end(session, terminal, work):
    with batch("the import") as opened:
        for number in range(4):
            enqueue("test.greet", ticket_id=number)
    session.commit()
    shown = terminal("--batch", opened.id)
    wait_until(shown.shows("the import: 0 of 4 ended, 0 failed"), seconds=30)
    assert "━" in shown.text, "the bar"
    work()
    assert shown.end() == 0
    # In the terminal's own screen, after the view.
    assert "the import: 4 of 4 ended, 0 failed" in shown.written.rpartition(LEAVE_SCREEN)[2]


@ONCE
def test_a_failure_of_the_database_is_shown_and_the_view_continues(app, monkeypatch):
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    results = [OperationalError("SELECT 1", {}, locked), KeyboardInterrupt()]
    shown: list[str] = []

    def read(batch_id: str | None) -> Any:
        raise results.pop(0)

    def update(self: Any, renderable: Any, **options: Any) -> None:
        shown.append(str(renderable))

    monkeypatch.setattr(watch_cli, "read_snapshot", read)
    monkeypatch.setattr(watch_cli, "_wait", lambda began: None)
    monkeypatch.setattr("rich.live.Live.update", update)
    with pytest.raises(KeyboardInterrupt):
        watch_cli._watch_in_terminal(None)
    assert len(shown) == 1
    assert shown[0].endswith("; trying again")


@ONCE
def test_each_refresh_takes_the_same_few_statements_however_much_there_is(app, session, statements):
    session.add_all(
        [WorkerProcess(name=f"light-{number}", kind="light", host="tower", pid=number) for number in range(20)]
    )
    for number in range(30):
        id = enqueue("test.greet", ticket_id=number)
        session.get_one(JobRecord, id).state = JobState.RUNNING
    session.commit()
    del statements[:]
    snapshot = watch_cli.read_snapshot(None)
    assert len([text for text in statements if text.startswith("SELECT")]) <= 6
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(watch_cli.render(snapshot))
    text = console.export_text()
    assert "and 8 more" in text
    assert "and 18 more" in text


@ONCE
def test_without_a_terminal_a_line_is_printed_after_each_change(app, session, monkeypatch, capsys):
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: (enqueue("test.greet", ticket_id=1), session.commit()),
    ]

    def step(began: float) -> None:
        if not steps:
            raise click.Abort
        steps.pop(0)()

    monkeypatch.setattr(watch_cli, "_wait", step)
    lines = app.test_cli_runner().invoke(args=["jobs", "watch"]).stdout.splitlines()
    assert [line.split()[1:] for line in lines] == [["no", "jobs"], ["pending", "1"]]


@ONCE
def test_an_unknown_batch_is_reported_in_one_line(app):
    result = app.test_cli_runner().invoke(args=["jobs", "watch", "--batch", "nonsense"])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
