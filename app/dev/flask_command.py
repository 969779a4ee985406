"""Runs a `flask` command in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click


def run_flask(*arguments: str, root: Path, environ: Mapping[str, str]) -> str:
    """Runs `python cli.py …` and returns what it printed.

    Raises:
        click.ClickException: the command failed; contains its output.
    """
    command = [sys.executable, "cli.py", *arguments]
    done = subprocess.run(command, cwd=root, env=dict(environ), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise click.ClickException(f"`flask {' '.join(arguments)}` failed:\n{output}")
    return done.stdout
