"""The commands `flask dev …`. What they do lives in the modules beside this one."""

from __future__ import annotations

from pathlib import Path

import click
from flask import current_app

from app.dev import migrations, run, valkey
from flask_belfry.core.commands import CommandGroup


@click.group(cls=CommandGroup)
def dev() -> None:
    """Runs the parts of a developer's machine."""


@dev.command("run")
def run_command() -> None:
    """Migrates, makes demo data on the first run and starts everything in this terminal."""
    raise SystemExit(run.run_everything(current_app))


@dev.command("valkey")
def valkey_command() -> None:
    """Runs the embedded Valkey in the foreground."""
    valkey.replace_process(current_app)


@dev.command("inbox")
def inbox_command() -> None:
    """Catches mails on a port of its own and keeps them in instance/inbox."""
    # Imported here: aiosmtpd is a development package, and the other commands do without it.
    from flask_belfry.mail.catcher import serve

    serve(Path(current_app.instance_path) / "inbox")


@dev.command("check-migrations")
def check_migrations_command() -> None:
    """Exits 1 when the models differ from what the migrations make."""
    migrations.check(Path(current_app.root_path).parent)
    click.echo("migrations are up to date")
