"""Limits of jobs: how many of one key run at the same time, and how many start in a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Key = str | Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Limit:
    """A limit that all jobs with the same key share, over all workers.

    Args:
        key: the limit key, or a function of the job's arguments that returns it when the job is enqueued.
        running: the most jobs with this key that run at the same time; None is any number.
        per_minute: the most jobs with this key that start in a minute, evenly spaced; None is any number.
    """

    key: Key
    running: int | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        if self.running is None and self.per_minute is None:
            raise ValueError("a Limit must have running, per_minute or both")
        for name, value in (("running", self.running), ("per_minute", self.per_minute)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")

    def key_of(self, args: Mapping[str, Any]) -> str:
        """Return the key of a job with these arguments."""
        return self.key if isinstance(self.key, str) else self.key(args)
