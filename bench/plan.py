"""How a run was asked for: which databases, how many rounds, how much of everything, with or without the peers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.contestants import BELFRY, BELFRY_HERE, DJANGO_CELERY, QUEUES, Desk, Queue
from bench.figures import Comparison, Measure, Quantity, medians

DATABASES = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Plan:
    """What the options of the command line say.

    Args:
        databases: of DATABASES.
        rounds: how often each contestant is measured.
        scale: the share of the usual numbers of jobs, mails, requests and rows.
        alone: Belfry without its peers.
    """

    databases: Sequence[str] = DATABASES
    rounds: int = 3
    scale: float = 1.0
    alone: bool = False

    @property
    def belfry(self) -> Desk:
        """Belfry, beside its peers with the packages of production only."""
        return BELFRY_HERE if self.alone else BELFRY

    @property
    def desks(self) -> Sequence[Desk]:
        """Belfry, and its peer."""
        return (self.belfry,) if self.alone else (self.belfry, DJANGO_CELERY)

    @property
    def queues(self) -> Sequence[Queue]:
        """The peers of the job system alone."""
        return () if self.alone else QUEUES

    def scaled(self, count: int) -> int:
        """A usual number, made smaller or larger; at least 2, or nothing lies between the first and the last."""
        return max(2, round(count * self.scale))

    def measure(self, measures: Mapping[str, Measure]) -> dict[Quantity, dict[str, float]]:
        """The medians of `rounds`; each measurement is reported on stderr."""
        return medians(self.rounds, measures, say)

    def compare(self, database: str, measures: Mapping[str, Measure]) -> Iterator[Comparison]:
        """The same for contestants that all run on one database, given by name."""
        named = {f"{database}.{name}": measure for name, measure in measures.items()}
        for quantity, values in self.measure(named).items():
            yield Comparison(quantity, database, {name: values[f"{database}.{name}"] for name in measures})

    def compare_without_database(
        self, own: Mapping[str, Measure], peers: Mapping[str, Measure]
    ) -> Iterator[Comparison]:
        """The same for Belfry on each database and peers that use none, in the same rounds.

        Args:
            own: Belfry's, by database.
            peers: by name.
        """
        measures = {f"{database}.{self.belfry.name}": measure for database, measure in own.items()}
        for quantity, values in self.measure({**measures, **peers}).items():
            for database in own:
                mine = values[f"{database}.{self.belfry.name}"]
                others = {peer: values[peer] for peer in peers}
                yield Comparison(quantity, database, {self.belfry.name: mine, **others}, peers_use_database=False)


def say(text: str) -> None:
    """Report progress on stderr; figures go to stdout."""
    print(text, file=sys.stderr, flush=True)
