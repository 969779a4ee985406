"""`python -m bench [CASE…]`: measures Belfry and its peers in turns, and prints one line per figure."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from bench.cases import CASES
from bench.errors import BenchError
from bench.figures import Comparison, markdown, verdicts
from bench.ground import Grounds
from bench.plan import DATABASES, Plan, say

QUICK_SCALE = 0.2


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"bench: {message}\n")


def parse(words: Sequence[str]) -> tuple[list[str], Plan, bool]:
    """The names of the cases, the plan, and whether a table is wanted. Ends the process when the words are wrong."""
    parser = Parser(prog="python -m bench", description="Cases: " + ", ".join(CASES) + ". Without a name all run.")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--database", choices=DATABASES, help="one of the two instead of both")
    parser.add_argument("--rounds", type=_rounds, help="how often each contestant is measured; the median counts")
    parser.add_argument("--scale", type=_scale, help="a share of the usual numbers of jobs, mails, requests and rows")
    parser.add_argument("--quick", action="store_true", help=f"the same as --rounds 1 --scale {QUICK_SCALE}")
    parser.add_argument("--alone", action="store_true", help="Belfry without its peers")
    parser.add_argument("--markdown", action="store_true", help="a table instead of lines")
    options = parser.parse_args(words)
    for name in options.cases:
        if name not in CASES:
            parser.error(f"no case is named {name!r}: there are {', '.join(CASES)}")
    plan = Plan(
        databases=(options.database,) if options.database else DATABASES,
        rounds=options.rounds or (1 if options.quick else Plan.rounds),
        scale=options.scale or (QUICK_SCALE if options.quick else Plan.scale),
        alone=options.alone,
    )
    return options.cases or list(CASES), plan, options.markdown


def run(names: Sequence[str], plan: Plan, *, as_table: bool) -> None:
    """Runs cases and prints their figures; how they stand to the aims goes to stderr.

    Raises:
        BenchError: a measurement cannot be made.
    """
    say(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {plan.rounds} round(s)")
    comparisons: list[Comparison] = []
    printed: set[str] = set()
    with Grounds() as grounds:
        for name in names:
            for comparison in CASES[name](grounds, plan):
                comparisons.append(comparison)
                # What the peers do without a database would be told for each of Belfry's.
                new = [line for line in comparison.lines() if not as_table and line not in printed]
                printed.update(new)
                print("".join(f"{line}\n" for line in new), end="", flush=True)
    if as_table:
        print(markdown(comparisons))
    for verdict in verdicts(comparisons):
        say(verdict.line())


def main(words: Sequence[str]) -> None:
    """Does what the words on the command line say."""
    names, plan, as_table = parse(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does, so that no process is left behind
    try:
        run(names, plan, as_table=as_table)
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _rounds(text: str) -> int:
    if (rounds := int(text)) < 1:
        raise argparse.ArgumentTypeError("takes 1 or more")
    return rounds


def _scale(text: str) -> float:
    if (scale := float(text)) <= 0:
        raise argparse.ArgumentTypeError("takes more than 0")
    return scale


if __name__ == "__main__":
    main(sys.argv[1:])
