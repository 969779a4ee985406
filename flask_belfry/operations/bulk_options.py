"""What the commands that begin bulk operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from flask_belfry.operations import bulk
from flask_belfry.operations.models import BulkOperation


def canary_option(default: int | None = None) -> Callable[[Any], Any]:
    """Return the option for the jobs that are retried first."""
    return click.option(
        "--canary",
        type=click.IntRange(0, bulk.MAX_CANARY),
        default=default,
        show_default=default is not None,
        help="Retry so many first, and the rest when none of them has failed again; 0 is all.",
    )


def pace_option(default: float | None = None) -> Callable[[Any], Any]:
    """Return the option for the number of jobs in a second."""
    return click.option(
        "--pace",
        type=click.FloatRange(0, bulk.MAX_PER_SECOND),
        default=default,
        show_default=default is not None,
        help="Change so many in a second; 0 is as fast as possible.",
    )


def echo_begun(operation: BulkOperation) -> None:
    """Print an operation that has begun, and how to follow it."""
    click.echo(f"operation {operation.id} has begun: {operation.total:,} {'job' if operation.total == 1 else 'jobs'}")
    click.echo(f"see `flask jobs operations show {operation.id} --follow`", err=True)
