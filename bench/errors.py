"""What ends a run of the bench before its time."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be made; the message is one line."""
