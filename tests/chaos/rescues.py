"""The jobs of killed processes: how often they were hit, and how long they waited until they ran again."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flask_belfry.outbox import JobState
from flask_belfry.outbox.registry import HEAVY_QUEUES
from tests.chaos.facts import Facts, JobStep
from tests.chaos.services import Kill

PROMISE_SECONDS = 15.0
# A job that is popped first may be claimed a little later: one that begins so much earlier was before it.
CLAIM_SECONDS = 3.0


@dataclass(frozen=True)
class Rescue:
    """A job that ran in a killed process, and runs again.

    Args:
        job_id: the job.
        kill: what killed its process.
        back_seconds: until it was back in its queue.
        seconds: until it ran again; both from the kill, or from the last stall after it, or from the start of the
            worker that took it when all others were dead.
        is_disturbed: whether there was such a stall.
        is_behind: whether it waited no longer than the jobs after it: the workers had more to do than they could. Also
            when it was blocked, by its limit or a pause.
    """

    job_id: str
    kill: Kill
    back_seconds: float
    seconds: float
    is_disturbed: bool = False
    is_behind: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether it breaks the promise."""
        return self.back_seconds > PROMISE_SECONDS or (self.seconds > PROMISE_SECONDS and not self.is_behind)


def deaths(facts: Facts, struck: Sequence[Kill]) -> Counter[str]:
    """By job id, how many of its claims were held by a process that was killed, or frozen, meanwhile."""
    moments: dict[int, list[float]] = {}
    for kill in struck:
        moments.setdefault(kill.pid, []).append(kill.at)
    found: Counter[str] = Counter()
    for job_id, steps in facts.steps.items():
        for step, following in pairwise(steps):
            hits = moments.get(_pid(facts, step) or 0, [])
            found[job_id] += step.state == JobState.RUNNING and any(step.at <= hit <= following.at for hit in hits)
    return found


@dataclass(frozen=True)
class Turn:
    """A job's wait in its queue, in Unix time."""

    queue: str
    came_at: float
    began_at: float

    def is_beside(self, other: Turn) -> bool:
        """Whether the same workers take both."""
        return (self.queue in HEAVY_QUEUES) == (other.queue in HEAVY_QUEUES)


def rescues(facts: Facts, kills: Sequence[Kill], stalls: Sequence[float]) -> list[Rescue]:
    """Every rescue there was.

    Args:
        facts: the steps of the jobs, and the processes of the workers.
        kills: the killed processes.
        stalls: moments that restart the time of a rescue, in Unix time: an outage of a server ended, a scheduler was
            killed, a process was frozen, which may have had the id in its hands.
    """
    turns = _turns(facts)
    found = [_rescue(facts, job_id, kill, stalls, turns) for kill in kills for job_id in facts.steps]
    return [rescue for rescue in found if rescue is not None]


def _rescue(facts: Facts, job_id: str, kill: Kill, stalls: Sequence[float], turns: Sequence[Turn]) -> Rescue | None:
    steps = facts.steps[job_id]
    number = bisect_right(steps, kill.at, key=lambda step: step.at)
    if number == 0 or steps[number - 1].state != JobState.RUNNING or _pid(facts, steps[number - 1]) != kill.pid:
        return None
    again = next((step for step in steps[number:] if step.state == JobState.RUNNING), None)
    if again is None or (back := steps[number]).state != JobState.PENDING:
        return None  # it has not run again, or its end was on the way already
    turn = Turn(facts.queues.get(job_id, ""), back.at, again.at)
    moments = [kill.at, *(stall for stall in stalls if kill.at < stall <= again.at)]
    is_disturbed, back_seconds = len(moments) > 1, max(0.0, back.at - max(moments))
    moments += _first_worker(facts, turn, again, turns)
    is_behind = _is_behind(turn, turns) or any(
        step.state == JobState.BLOCKED for step in steps[number:] if step.at < again.at
    )
    return Rescue(job_id, kill, back_seconds, again.at - max(moments), is_disturbed, is_behind)


def _pid(facts: Facts, step: JobStep) -> int | None:
    worker = facts.workers.get(step.worker or "")
    return worker.pid if worker else None


def _first_worker(facts: Facts, turn: Turn, again: JobStep, turns: Sequence[Turn]) -> list[float]:
    """When the worker that took the job began, if there was none before it: all were dead at once."""
    worker = facts.workers.get(again.worker or "")
    if worker is None or any(
        turn.came_at < other.began_at < worker.began_at for other in turns if other.is_beside(turn)
    ):
        return []
    return [worker.began_at]


def _turns(facts: Facts) -> list[Turn]:
    return [
        Turn(facts.queues.get(job_id, ""), steps[0].at, step.at)
        for job_id, steps in facts.steps.items()
        for step in steps[1:]
        if step.state == JobState.RUNNING and step.claim == 1
    ]


def _is_behind(turn: Turn, turns: Sequence[Turn]) -> bool:
    """Whether others began while it waited, and none of its own queue that had come later."""
    before = turn.began_at - CLAIM_SECONDS
    began = [other for other in turns if other.is_beside(turn) and turn.came_at < other.began_at < before]
    return bool(began) and not any(other.queue == turn.queue and other.came_at > turn.came_at for other in began)
