"""The supervisor of `make run`, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SUPERVISE = """
import os, sys
from pathlib import Path
from app.dev.supervisor import Service, Supervisor
services = [Service(name, line, Path.cwd(), os.environ) for name, line in zip(sys.argv[2::2], sys.argv[3::2])]
raise SystemExit(Supervisor(services, ("base",), lambda: True, grace_seconds=float(sys.argv[1])).run())
"""
LOOP = "sh -c 'echo pid $$; trap \"echo {name} ends; exit 0\" TERM; while :; do sleep 0.1; done'"


def supervise(output: Path, *services: str, grace_seconds: float = 10) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SUPERVISE, str(grace_seconds), *services]
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def wait_until(condition: Callable[[], object], limit_seconds: float = 20) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def pids(output: Path) -> list[int]:
    return [int(line.rpartition("pid ")[2]) for line in output.read_text().splitlines() if "| pid " in line]


def pid_of(output: Path, name: str) -> int:
    """Whichever of several processes comes first says so first."""
    lines = [line for line in output.read_text().splitlines() if f" {name} | pid " in line]
    return int(lines[0].rpartition("pid ")[2])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_process_is_started_again_and_the_others_live_on(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = supervise(output, "base", LOOP.format(name="base"), "work", LOOP.format(name="work"))
    wait_until(lambda: len(pids(output)) == 2)
    base, work = pid_of(output, "base"), pid_of(output, "work")

    os.kill(work, signal.SIGKILL)
    wait_until(lambda: len(pids(output)) == 3)

    assert is_alive(base)
    assert "work was killed by signal 9: restarting it" in output.read_text()
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_a_stop_ends_everything_and_the_foundation_last(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = supervise(output, "base", LOOP.format(name="base"), "work", LOOP.format(name="work"))
    wait_until(lambda: len(pids(output)) == 2)

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=20) == 0
    text = output.read_text()
    assert text.index("work ends") < text.index("base ends")
    assert not any(map(is_alive, pids(output)))


def test_a_process_that_does_not_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    output = tmp_path / "output"
    stubborn = "sh -c 'echo pid $$; trap \"\" TERM; while :; do sleep 0.1; done'"
    process = supervise(output, "stubborn", stubborn, grace_seconds=0.5)
    wait_until(lambda: pids(output))

    process.terminate()

    assert process.wait(timeout=20) == 0
    assert "stubborn did not stop: killing it" in output.read_text()
    wait_until(lambda: not is_alive(pids(output)[0]))


def test_what_cannot_be_kept_running_stops_everything_with_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = supervise(output, "base", LOOP.format(name="base"), "broken", "sh -c 'echo no module; exit 3'")

    assert process.wait(timeout=30) == 1
    assert "broken exited with status 3, 5 times in a row: stopping all processes" in output.read_text()
    assert not any(map(is_alive, pids(output)))


RELOAD = """
import os, signal, sys
from pathlib import Path
from app.dev.run import code_version
from app.dev.supervisor import Service, Supervisor
root = Path(sys.argv[1])
base = Service("base", sys.argv[2], Path.cwd(), os.environ)
work = Service("work", sys.argv[3], Path.cwd(), os.environ, signal.SIGTERM)
raise SystemExit(Supervisor([base, work], ("base",), lambda: True, 10, lambda: code_version(root)).run())
"""


def test_a_change_of_the_code_restarts_what_runs_it_and_broken_code_waits_for_the_next(tmp_path: Path) -> None:
    output, module = tmp_path / "output", tmp_path / "app" / "module.py"
    module.parent.mkdir()
    module.write_text("print('pid', 1)")
    line = f"sh -c '{sys.executable} {module} && echo pid $$ && exec sleep 1000'"
    with output.open("wb") as file:
        command = [sys.executable, "-c", RELOAD, str(tmp_path), LOOP.format(name="base"), line]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    wait_until(lambda: len(pids(output)) == 3)
    base = pid_of(output, "base")

    module.write_text("import no_such_module")
    wait_until(lambda: "5 times in a row: waiting for a change of the code" in output.read_text(), 40)
    module.write_text("print('mended')")
    wait_until(lambda: "mended" in output.read_text() and len(pids(output)) == 4)

    assert is_alive(base)
    assert output.read_text().count("the code has changed: reloading") == 2
    process.terminate()
    assert process.wait(timeout=20) == 0


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = supervise(output, "base", LOOP.format(name="base"))
    wait_until(lambda: pids(output))

    process.kill()
    process.wait()

    wait_until(lambda: not is_alive(pids(output)[0]))
