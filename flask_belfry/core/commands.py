"""Our commands and their groups: an error is one line on stderr, whatever is wrong, also one of usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click
import redis
import structlog
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy.exc import DataError, DBAPIError

from flask_belfry.core.database_errors import database_problem
from flask_belfry.core.errors import AppError

FAILURE_STATUS, USAGE_STATUS = 1, 2
# Longer ages lie before the first year of the calendar.
MAX_DAYS = 36_500

log = structlog.get_logger(__name__)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class OneLineError(click.ClickException):
    """An error as one line, whatever it quotes."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = status  # pyright: ignore[reportAttributeAccessIssue] - click reads it from the instance


class Command(click.Command):
    """A command that reports every error in one line; `--help` shows the correct usage."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parses the command's own words."""
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a group parses the words of its subcommand here."""
        with _one_line_errors():
            return super().invoke(ctx)


class LazyGroup(AppGroup):
    """A group that imports the modules of some of its commands when they are first looked up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy: dict[str, str] = {}

    def add_lazy(self, name: str, path: str) -> None:
        """Add a command by the path of its object, `module:attribute`."""
        self._lazy[name] = path

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if path := self._lazy.pop(cmd_name, None):
            module, _, attribute = path.partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)


def add_lazy_command(app: Flask, name: str, path: str) -> None:
    """Add a command to those of `app`, by the path of its object: `module:attribute`."""
    assert isinstance(app.cli, LazyGroup)
    app.cli.add_lazy(name, path)


class CommandGroup(Command, LazyGroup):
    """A group of such commands."""


class RootGroup(LazyGroup):
    """The commands of the application, where the `flask` command looks for those that it does not have itself."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name. Raise OneLineError when there is none."""
        if (command := super().get_command(ctx, cmd_name)) is None:
            raise OneLineError(f"No such command {cmd_name!r}. (see `{ctx.command_path} --help`)", USAGE_STATUS)
        return command


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit, click.Abort, OneLineError, BrokenPipeError):
        raise  # click handles these
    except Exception as error:
        log.debug("command.failed", exc_info=True)
        raise _one_line_error(error) from error


def _one_line_error(error: Exception) -> OneLineError:
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "flask"
            return OneLineError(f"{error.format_message()} (see `{command} --help`)", USAGE_STATUS)
        case click.ClickException():
            return OneLineError(error.format_message(), error.exit_code)
        case AppError():
            return OneLineError(error.for_operators, FAILURE_STATUS)
        case DataError() | OverflowError() | UnicodeError():
            reason = error.orig if isinstance(error, DataError) else error
            return OneLineError(f"the database cannot store or compare one of these values: {reason}", USAGE_STATUS)
        case DBAPIError():
            return OneLineError(database_problem(error), FAILURE_STATUS)
        case redis.RedisError():
            return OneLineError(f"the broker does not answer: {error}", FAILURE_STATUS)
        case _:
            reason = f"{type(error).__name__}: {error}"
            return OneLineError(f"{reason} (LOG_LEVEL=DEBUG shows the traceback)", FAILURE_STATUS)


def echo_json(value: Any) -> None:
    """Prints a value as JSON; times in ISO 8601."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
