"""The commands `flask dev …`."""

from __future__ import annotations

from pathlib import Path

import click
from flask import current_app

from app.dev import migrations, run, valkey
from flask_belfry.core.commands import CommandGroup


@click.group(cls=CommandGroup)
def dev() -> None:
    """Run Belfry and its services on a development machine."""


@dev.command("run")
def run_command() -> None:
    """Migrate, load the demo on the first run, and run all processes in this terminal."""
    raise SystemExit(run.run_everything(current_app))


@dev.command("valkey")
def valkey_command() -> None:
    """Run the embedded Valkey in the foreground."""
    valkey.replace_process(current_app)


@dev.command("inbox")
def inbox_command() -> None:
    """Receive mails on a local port and store them in instance/inbox."""
    # Imported here: aiosmtpd is a development package, which the other commands do not need.
    from flask_belfry.mail.catcher import serve

    serve(Path(current_app.instance_path) / "inbox")


@dev.command("check-migrations")
def check_migrations_command() -> None:
    """Exit with status 1 if the models differ from the migrations."""
    migrations.check(Path(current_app.root_path).parent)
    click.echo("migrations are up to date")
