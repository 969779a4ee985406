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


def run(names: Sequence[str], plan: Plan, *, as_table: bool) -> bool:
    """Runs cases and prints their figures; how they stand to the aims goes to stderr.

    Returns:
        whether all of them could be measured.
    """
    say(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {plan.rounds} round(s)")
    found: list[Comparison] = []
    is_complete = True
    with Grounds() as grounds:
        for name in names:
            try:
                for comparison in CASES[name](grounds, plan):
                    if not as_table:
                        _print_new(comparison, found)
                    found.append(comparison)
            except BenchError as error:  # the next case may fare better
                say(f"bench: {name}: {error}")
                is_complete = False
    if as_table:
        print(markdown(found))
    for verdict in verdicts(found):
        say(verdict.line())
    return is_complete


def main(words: Sequence[str]) -> None:
    """Does what the words on the command line say, and ends the process."""
    names, plan, as_table = parse(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does, so that no process is left behind
    try:
        sys.exit(0 if run(names, plan, as_table=as_table) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_new(comparison: Comparison, before: Sequence[Comparison]) -> None:
    """Prints the lines of a comparison; what peers do without a database is printed for the first one only."""
    told = {line for earlier in before for line in earlier.lines()}
    for line in comparison.lines():
        if line not in told:
            print(line, flush=True)


def _rounds(text: str) -> int:
    if (rounds := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return rounds


def _scale(text: str) -> float:
    if (scale := float(text)) <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return scale


if __name__ == "__main__":
    main(sys.argv[1:])
