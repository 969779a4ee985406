"""`python -m tests.chaos`: prints the seed, the faults as they strike, and what the books say; status 1 when a promise
was broken."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.chaos.comparison import story
from tests.chaos.facts import Facts
from tests.chaos.faults import kinds
from tests.chaos.notices import after_cancels
from tests.chaos.plan import Prefetch
from tests.chaos.rescues import PROMISE_SECONDS, Rescue
from tests.chaos.run import Result, run
from tests.chaos.stack import SCHEDULERS, Scale

LOGS = Path(__file__).resolve().parents[2] / "instance" / "chaos"
EVIDENCE_LINES = 10

# The deaths that a rescue follows come twice as often as the others.
WORKER_DEATHS = ("kill light worker", "kill pool's child", "kill pool's parent", "kill heavy worker", "kill work horse")
FULL = Scale(
    services=("web", "light", "pool", "heavy", *SCHEDULERS, "load"),
    kinds=(*kinds(rescue_after_seconds=10), *kinds(10, WORKER_DEATHS)),
    pace=Prefetch(gap_seconds=(0.2, 3.0), calm_seconds=(6.0, 14.0), calms=0.25),
    settings={"NOTIFICATION_FALLBACK_MINUTES": "payment=1"},
    load_threads=6,
    notifiers=3,
    operators=3,
    load_pause_seconds=0.4,
    settle_seconds=240,
)
# A glance at the kinds that matter most, in the time that a test may take: fewer processes, and all is noticed sooner.
BRIEF = Scale(
    services=("web", "pool", "heavy", *SCHEDULERS, "load"),
    kinds=kinds(
        4,
        (
            "kill pool's child",
            "kill work horse",
            "kill scheduler",
            "freeze pool's child for long",
            "crash PostgreSQL",
            "kill Valkey",
            "flush Valkey",
            "SMTP cuts before its 250",
            "FCM unavailable",
        ),
    ),
    pace=Prefetch(gap_seconds=(0.5, 1.5), calm_seconds=(2.0, 3.0), calms=0.2),
    settings={"HEARTBEAT_SECONDS": "1", "RESCUE_AFTER_SECONDS": "4", "RELAY_SECONDS": "1"},
    load_threads=4,
    notifiers=1,
    operators=1,
    load_pause_seconds=0.3,
    settle_seconds=120,
)
SCALES = {"full": FULL, "brief": BRIEF}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _options(arguments)
    seed = options.seed or secrets.token_hex(4)
    _say(f"chaos: {options.faults} faults, SEED={seed}")
    folder = options.logs or LOGS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, _stop)
    began_at = time.monotonic()
    result = run(folder.resolve(), seed, options.faults, SCALES[options.scale], _say)
    _print_figures(result, time.monotonic() - began_at)
    _print_evidence(result)
    _say("every promise held" if result.is_well else f"A PROMISE WAS BROKEN: repeat with SEED={seed}")
    return 0 if result.is_well else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", type=int, default=100, help="how many")
    parser.add_argument("--seed", default="", help="repeats the faults of a run that printed it")
    parser.add_argument("--scale", choices=SCALES, default="full", help="brief: few kinds and short waits, for a test")
    parser.add_argument("--logs", type=Path, help="the folder for the logs (instance/chaos)")
    return parser.parse_args(arguments)


def _print_figures(result: Result, seconds: float) -> None:
    facts, findings = result.facts, result.findings
    for kind, count in sorted(result.struck.items()):
        if count:
            _say(f"    {count:4d}  {kind}")
    limited = sum(job.limit_key is not None for job in facts.jobs)
    figures = {
        "faults": f"{result.struck.total()} ({result.missed} without a target)",
        "transactions": _counted([fate.value for fate in facts.book.values()]),
        "committed": f"{len(facts.committed)} transactions, {len(facts.expected_mails)} mails, "
        f"{len(facts.expected_effects)} jobs with an effect",
        "received": f"{sum(facts.received.values())} mails; {len(facts.refused)} were refused",
        "lost": len(findings.lost),
        "phantom": len(findings.phantom),
        "doubled": f"{len(findings.doubled)}; within the recorded uncertain window: {len(findings.uncertain)}",
        "effects twice": len(findings.twice),
        "failed": len(findings.failed),
        "over limit": f"{len(findings.over_limit)} of {limited} limited jobs",
        "notifications": _notifications(facts),
        "disagreeing": f"{len(findings.disagreeing)} of {len(facts.deliveries)} deliveries",
        "after a cancel": f"{len(findings.late)}; {_on_the_way(facts)}",
        "bulk operations": _counted([each.state.value for each in facts.operations]),
        "another school's": len(findings.foreign),
        "miscounted": len(findings.miscounted),
        "tracebacks": len(findings.tracebacks),
        "deadlocks": len(findings.deadlocks),
        "slowest rescue": _slowest(result.rescues),
        "took": f"{seconds:.0f} s",
    }
    for name, figure in figures.items():
        _say(f"{name:15} {figure}")
    for end in result.own_ends:
        _say(f"by itself: {end}")


def _counted(values: Sequence[str]) -> str:
    return ", ".join(f"{values.count(value)} {value}" for value in dict.fromkeys(values)) or "none"


def _notifications(facts: Facts) -> str:
    pushes = sum(map(len, facts.pushes.values()))
    return f"{_counted([each.state.value for each in facts.notices])}; {pushes} push messages were accepted"


def _on_the_way(facts: Facts) -> str:
    seconds = [at - cancelled_at for _, _, at, cancelled_at in after_cancels(facts)]
    return f"on the way: {len(seconds)}, the last after {max(seconds):.1f} s" if seconds else "none was on the way"


def _slowest(found: Sequence[Rescue]) -> str:
    kinds = {
        "": [rescue.seconds for rescue in found if not rescue.is_behind and not rescue.is_disturbed],
        " after the last outage on top": [r.seconds for r in found if not r.is_behind and r.is_disturbed],
        " to the queue, where more waited than the workers could do": [r.back_seconds for r in found if r.is_behind],
    }
    told = [f"{max(seconds):.1f} s of {len(seconds)}{what}" for what, seconds in kinds.items() if seconds]
    return (", ".join(told) or "none was needed") + f" (promise: {PROMISE_SECONDS:g} s)"


def _print_evidence(result: Result) -> None:
    broken = dict(result.findings.broken)
    if result.slow:
        broken["slow rescue"] = [
            f"job {rescue.job_id} was back after {rescue.back_seconds:.1f} s, ran again after {rescue.seconds:.1f} s: "
            f"process {rescue.kill.pid} was killed at {rescue.kill.at:.3f}"
            f"{', counted from the last outage on top' if rescue.is_disturbed else ''}"
            for rescue in result.slow
        ]
    if result.notes:
        broken["stop"] = result.notes
    if not result.facts.committed:
        broken["load"] = ["nothing was committed: nothing was tested"]
    for name, found in broken.items():
        for text in found[:EVIDENCE_LINES]:
            _say(f"{name}: {text}")
            for line in story(result.facts, text):
                _say(f"        {line}")
        if len(found) > EVIDENCE_LINES:
            _say(f"{name}: … and {len(found) - EVIDENCE_LINES} more")


def _say(text: str) -> None:
    print(text, flush=True)


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(f"stopped by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
