"""Runs a `flask` command in a process of its own, as a person would type it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click


def run_flask(*arguments: str, root: Path, environ: Mapping[str, str]) -> str:
    """Runs `python cli.py …` and returns what it printed.

    Raises:
        click.ClickException: with the output, when the command fails.
    """
    command = [sys.executable, "cli.py", *arguments]
    done = subprocess.run(command, cwd=root, env=dict(environ), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise click.ClickException(f"`flask {' '.join(arguments)}` failed:\n{output}")
    return done.stdout
