"""How long the jobs of killed processes waited until they ran again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from app.outbox import JobState
from tests.chaos.facts import Facts
from tests.chaos.services import Kill

PROMISE_SECONDS = 15.0


@dataclass(frozen=True)
class Rescue:
    """A job that ran in a killed process, and runs again.

    Args:
        job_id: the job.
        kill: what killed its process.
        seconds: from the kill, or from the last stall after it, to the next claim.
        is_disturbed: whether there was such a stall.
    """

    job_id: str
    kill: Kill
    seconds: float
    is_disturbed: bool


def rescues(facts: Facts, kills: Sequence[Kill], stalls: Sequence[float]) -> list[Rescue]:
    """Every rescue there was.

    Args:
        facts: the steps of the jobs, and the processes of the workers.
        kills: the killed processes.
        stalls: moments from which a rescue counts anew, in Unix time: an outage of a server ended, a scheduler was
            killed, a process was frozen, which may have had the id in its hands.
    """
    found = [_rescue(facts, job_id, kill, stalls) for kill in kills for job_id in facts.steps]
    return [rescue for rescue in found if rescue is not None]


def _rescue(facts: Facts, job_id: str, kill: Kill, stalls: Sequence[float]) -> Rescue | None:
    steps = facts.steps[job_id]
    number = bisect_right(steps, kill.at, key=lambda step: step.at)
    last = steps[number - 1] if number else None
    if last is None or last.state != JobState.RUNNING or facts.pids.get(last.worker or "") != kill.pid:
        return None
    for step in steps[number:]:
        if step.state == JobState.RUNNING:
            since = max([kill.at, *(stall for stall in stalls if kill.at < stall <= step.at)])
            return Rescue(job_id, kill, step.at - since, since > kill.at)
        if step.state not in (JobState.PENDING, JobState.QUEUED):
            return None  # its end was on the way already
    return None
