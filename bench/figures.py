"""Figures: the measurements of each contestant, medians and ratios, the aims, and their text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

BELFRY = "belfry"


class Quantity(NamedTuple):
    """Something that is measured."""

    name: str
    unit: str


Measure = Callable[[], Mapping[Quantity, float]]


@dataclass(frozen=True)
class Comparison:
    """The medians of one quantity.

    Args:
        quantity: what was measured.
        database: on which database Belfry ran.
        values: by contestant, Belfry's first.
        peers_use_database: whether the peers ran on that database too; a queue without history needs none.
    """

    quantity: Quantity
    database: str
    values: Mapping[str, float]
    peers_use_database: bool = True

    @property
    def name(self) -> str:
        """The quantity and the database."""
        return f"{self.quantity.name}.{self.database}"

    def ratios(self) -> dict[str, float]:
        """Belfry's value, divided by each peer's."""
        return {peer: self.values[BELFRY] / value for peer, value in self.values.items() if peer != BELFRY}

    def lines(self) -> Iterator[str]:
        """`name value unit`, for each contestant and each ratio."""
        for contestant, value in self.values.items():
            uses_database = self.peers_use_database or contestant == BELFRY
            prefix = self.name if uses_database else self.quantity.name
            yield f"{prefix}.{contestant} {rounded(value)} {self.quantity.unit}"
        for peer, ratio in self.ratios().items():
            yield f"{self.name}.ratio_to_{peer} {rounded(ratio)} x"


@dataclass(frozen=True)
class Aim:
    """What a figure is held against.

    Args:
        quantity: the name of a quantity with or without its database, or a pattern for several.
        peer: whose ratio is meant; None means Belfry's own value.
        at_least, at_most: one of them is the limit.
    """

    quantity: str
    peer: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, comparison: Comparison) -> Verdict | None:
        """What the aim says of a comparison; None when it is about something else, or that peer did not run."""
        name, unit = comparison.quantity
        if not any(fnmatchcase(each, self.quantity) for each in (name, comparison.name)):
            return None
        figures = comparison.values if self.peer is None else comparison.ratios()
        value = figures.get(self.peer or BELFRY)
        if value is None:
            return None
        subject = f"{comparison.name}.{BELFRY if self.peer is None else f'ratio_to_{self.peer}'}"
        return Verdict(subject, value, unit if self.peer is None else "x", self._is_met(value), self._words())

    def _is_met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def _words(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


class Verdict(NamedTuple):
    """Whether one figure meets its aim."""

    figure: str
    value: float
    unit: str
    is_met: bool
    aim: str

    def line(self) -> str:
        """`met name value unit (aim)`."""
        return f"{self.word()} {self.figure} {rounded(self.value)} {self.unit} ({self.aim})"

    def word(self) -> str:
        """Met or missed."""
        return "met" if self.is_met else "missed"


AIMS = (
    Aim("noop", "celery", at_least=4),
    Aim("mails", "celery", at_least=4),
    Aim("mails_50ms", "celery", at_least=10),
    Aim("patch_1_client_p50.sqlite", "celery", at_most=0.5),
    Aim("patch_1_client_p50.postgresql", "celery", at_most=0.8),
    Aim("patch_8_clients_p50*", "celery", at_most=1),
    Aim("request_to_smtp_p50", at_most=15),
    Aim("request_to_smtp_p99", at_most=50),
    Aim("registration_*p99", at_most=1_000),
    Aim("registration_hanging_mail_p50", "well", at_most=1.1),
    Aim("notification_accept_p50", at_most=300),
    Aim("bulk_mails", "celery", at_least=4),
    Aim("bulk_mails_50ms", "celery", at_least=10),
    Aim("push_50ms", "celery", at_least=10),
    Aim("scheduled_lateness_p99", at_most=2),
    Aim("reset_in_bulk_p99", at_most=2),
    Aim("sweep", "celery", at_least=50),
    Aim("pages_slowest_p95", at_most=150),
    Aim("pages_dashboards", at_most=5),
    Aim("cli", at_most=0.8),
    Aim("cli", "celery", at_most=1),
    Aim("memory", "celery", at_most=0.7),
)


def medians(
    rounds: int, measures: Mapping[str, Measure], say: Callable[[str], None]
) -> dict[Quantity, dict[str, float]]:
    """Measures the contestants in turns, so that a noisy minute of the machine meets all of them.

    Args:
        rounds: how often each is measured; its median counts.
        measures: by the name that a figure gives it.
        say: called with every measurement as soon as it is made.
    """
    taken: dict[Quantity, dict[str, list[float]]] = {}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            for quantity, value in measure().items():
                taken.setdefault(quantity, {}).setdefault(name, []).append(value)
                say(f"round {number}: {quantity.name}.{name} {rounded(value)} {quantity.unit}")
    return {
        quantity: {name: statistics.median(values) for name, values in by_name.items()}
        for quantity, by_name in taken.items()
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least so many percent of them do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values have no percentile")
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def rounded(value: float) -> str:
    """A value with as many decimals as its size deserves."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def verdicts(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """What all aims say of all comparisons."""
    found = (aim.judge(comparison) for comparison in comparisons for aim in AIMS)
    return [verdict for verdict in found if verdict is not None]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All of it as a table."""
    head = ["| figure | unit | Belfry | peer | ratio | aim |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row for comparison in comparisons for row in _rows(comparison))])


def _rows(comparison: Comparison) -> Iterator[str]:
    judged = {verdict.figure: verdict for verdict in verdicts([comparison])}
    own = f"| `{comparison.name}` | {comparison.quantity.unit} | {rounded(comparison.values[BELFRY])} |"
    ratios = comparison.ratios()
    for peer, ratio in ratios.items():
        verdict = judged.get(f"{comparison.name}.ratio_to_{peer}") or judged.get(f"{comparison.name}.{BELFRY}")
        yield f"{own} {peer} {rounded(comparison.values[peer])} | {rounded(ratio)} x | {_judgement(verdict)} |"
    if not ratios:
        yield f"{own} | | {_judgement(judged.get(f'{comparison.name}.{BELFRY}'))} |"


def _judgement(verdict: Verdict | None) -> str:
    return f"{verdict.aim} {verdict.unit}: {verdict.word()}" if verdict else ""
