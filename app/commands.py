"""The groups of our commands: an error is one line on stderr, also one of usage."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from app.errors import AppError

FAILURE_STATUS, USAGE_STATUS = 1, 2


class CommandGroup(AppGroup):
    """A group whose commands say what is wrong in one line; `--help` says how it is right."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command of the group."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _in_one_line(error) from error
        except click.ClickException as error:
            raise OneLineError(error.format_message(), error.exit_code) from error
        except AppError as error:
            raise OneLineError(error.for_operators, FAILURE_STATUS) from error


class OneLineError(click.ClickException):
    """An error as one line, whatever it quotes."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = status  # pyright: ignore[reportAttributeAccessIssue] - click reads it from the instance


def _in_one_line(error: click.UsageError) -> click.ClickException:
    command = error.ctx.command_path if error.ctx else "flask"
    return OneLineError(f"{error.format_message()} (see `{command} --help`)", USAGE_STATUS)
