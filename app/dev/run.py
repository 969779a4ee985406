"""`make run`: prepares the database and runs all processes in one terminal."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import click
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from honcho.environ import parse_procfile

from app.config import load_environment
from app.dev import valkey
from app.dev.flask_command import run_flask
from app.dev.supervisor import Service, Supervisor
from flask_belfry.db import db

# The other processes wait for the broker; the web process does not need one.
FOUNDATION = ("valkey", "inbox", "web")
# Processes that reload changed code: the web process without closing its socket, the others by a restart.
RELOAD_SIGNALS = {
    "web": signal.SIGHUP,
    "worker": signal.SIGTERM,
    "heavy": signal.SIGTERM,
    "scheduler": signal.SIGTERM,
}
CODE_FOLDERS = ("app", "flask_belfry", "jobs")
CODE_SUFFIXES = (".py", ".html", ".txt")
ANSWER_SECONDS = 60
# Added to the grace period of a stopping service before the supervisor kills it.
PATIENCE_SECONDS = 5


def run_everything(app: Flask) -> int:
    """Migrate, load the demo on the first run, and run Procfile.dev until Ctrl-C; return the exit status."""
    root, port = Path(app.root_path).parent, int(app.config["PORT"])
    Path(app.instance_path).mkdir(mode=0o700, parents=True, exist_ok=True)
    _hold_lock(Path(app.instance_path) / "run.lock")
    _check_taken_port(port)
    environ = _child_environment(root, port)
    logins = _prepare_database(app, root, environ)
    supervisor = Supervisor(
        [Service(name, line, root, environ, RELOAD_SIGNALS.get(name)) for name, line in _procfile(app, root).items()],
        foundation=FOUNDATION,
        is_foundation_ready=lambda: not valkey.is_embedded(app) or _accepts(valkey.socket_path(app)),
        grace_seconds=app.config["SHUTDOWN_GRACE_SECONDS"] + PATIENCE_SECONDS,
        code_version=lambda: code_version(root),
    )
    url = f"http://127.0.0.1:{port}"
    welcome = _welcome(app, url, logins)
    threading.Thread(target=_announce, args=(supervisor, url, welcome), daemon=True).start()
    return supervisor.run()


def code_version(root: Path) -> frozenset[tuple[str, int]]:
    """Return all files of code and templates with their times of modification."""
    files = [*root.glob("*.py"), root / ".env", *(path for name in CODE_FOLDERS for path in (root / name).rglob("*"))]
    found: set[tuple[str, int]] = set()
    for path in files:
        if path.suffix in CODE_SUFFIXES or path.name == ".env":
            with suppress(FileNotFoundError):  # an editor replaces files
                found.add((str(path), path.stat().st_mtime_ns))
    return frozenset(found)


def _hold_lock(path: Path) -> None:
    """Acquire a lock that this process holds until it ends, even if it is killed."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise click.ClickException("Belfry is already running from this folder; stop it first") from None


def _check_taken_port(port: int) -> None:
    with socket.socket() as probe:
        # As gunicorn does: connections of the last run in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.ClickException(
                f"port {port} cannot be used ({error.strerror}); choose another: make run PORT={port + 1}"
            ) from None


def _child_environment(root: Path, port: int) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    environ = load_environment(root)
    return environ | {
        "PORT": str(port),
        "PATH": os.pathsep.join([scripts, environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def _prepare_database(app: Flask, root: Path, environ: dict[str, str]) -> str:
    """Migrate; on a new database or the first run, load the demo. Return the logins of the demo."""
    kept = Path(app.instance_path) / "demo-logins.txt"
    with db.engine.connect() as connection:
        revisions = set(MigrationContext.configure(connection).get_current_heads())  # empty if the database is new
    if revisions != set(ScriptDirectory(str(root / "migrations")).get_heads()):
        click.echo("Migrating the database …")
        run_flask("db", "upgrade", root=root, environ=environ)
    if not revisions or not kept.exists():
        click.echo("Loading demo data …")
        kept.write_text(run_flask("demo", "load", root=root, environ=environ))
    return kept.read_text()


def _procfile(app: Flask, root: Path) -> dict[str, str]:
    """Return the lines to run, without services that the settings place elsewhere."""
    lines = dict(parse_procfile((root / "Procfile.dev").read_text()).processes)
    if not valkey.is_embedded(app):
        del lines["valkey"]
    if app.config["MAIL_SERVER"]:
        del lines["inbox"]
    return lines


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _welcome(app: Flask, url: str, logins: str) -> list[str]:
    places = [f"Belfry   {url}", f"Jobs     {url}/jobs"]
    if not app.config["MAIL_SERVER"]:
        places.append(f"Inbox    {url}/dev/inbox")
    return ["", *places, "", *logins.strip().splitlines(), "", "Press Ctrl-C to stop all processes.", ""]


def _announce(supervisor: Supervisor, url: str, lines: list[str]) -> None:
    """Print the URLs once the web process answers."""
    if not _answers(f"{url}/healthz"):
        lines = [f"{url}/healthz does not answer after {ANSWER_SECONDS} s; the lines above say why"]
    for line in lines:
        supervisor.say("belfry", line or " ")


def _answers(url: str) -> bool:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    return False
