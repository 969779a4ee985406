"""`flask doctor`: checks each part by using it; a problem names the cause and the remedy."""

from __future__ import annotations

from dataclasses import asdict

import click
from flask.cli import with_appcontext
from flask.globals import app_ctx

from flask_belfry.core.commands import Command, as_json_option, echo_json
from flask_belfry.operations import problems


@click.command("doctor", cls=Command)
@as_json_option
@with_appcontext
def doctor_command(as_json: bool) -> None:
    """Check every part. Print one line for each: ok, or the cause and the remedy. Exit status 1 if a check fails."""
    found = problems.check_all(app_ctx.app)
    if as_json:
        echo_json([asdict(each) for each in found])
    else:
        for each in found:
            click.echo(f"{'ok ' if each.is_ok else 'BAD'}  {each.part:<14} {each.message}")
    if not all(each.is_ok for each in found):
        raise SystemExit(1)
