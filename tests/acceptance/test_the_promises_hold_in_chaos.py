"""A brief chaos: `make chaos` with few faults and short waits, on real processes and servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = 8
LIMIT_SECONDS = 240


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.xdist_group("chaos")
def test_nothing_is_lost_doubled_or_invented_while_everything_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--scale", "brief", "--faults", str(FAULTS), "--seed", "a"]
    chaos = subprocess.Popen(
        [*command, "--logs", str(tmp_path / "logs")],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = chaos.communicate(timeout=LIMIT_SECONDS)
    finally:
        chaos.terminate()  # it ends what it has started
        chaos.wait(30)
    assert chaos.returncode == 0, output
    assert "every promise held" in output
