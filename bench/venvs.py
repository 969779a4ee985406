"""The contestants' virtual environments: one for each requirements file, made when it is first needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.errors import BenchError

PEERS = Path(__file__).resolve().parent / "peers"
VENVS = Path(__file__).resolve().parent / ".venvs"


def bin_of(name: str, requirements: Path) -> Path:
    """The programs of a contestant's virtual environment, which is brought up to date with its requirements first.

    Args:
        name: the contestant's.
        requirements: the file that pins its packages.

    Raises:
        BenchError: its packages cannot be installed.
    """
    venv = VENVS / name
    installed = venv / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"Installing {name} …", file=sys.stderr)
        _install(venv, requirements)
        installed.write_text(requirements.read_text())
    return venv / "bin"


def _install(venv: Path, requirements: Path) -> None:
    _run(sys.executable, "-m", "venv", "--clear", str(venv))
    python = str(venv / "bin" / "python")
    uv = Path(sys.executable).parent / "uv"
    try:
        _run(str(uv), "pip", "sync", "--quiet", "--compile-bytecode", "--python", python, str(requirements))
    except (BenchError, FileNotFoundError):  # where uv cannot be had, pip reads the same file
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        raise BenchError(f"{' '.join(command)}: {said}")
