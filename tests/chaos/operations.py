"""What the books say of bulk operations. Every finding is a sentence with its ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from flask_belfry.operations import BulkKind, BulkState
from flask_belfry.outbox import FINALIZED
from tests.chaos.domain import BROKEN
from tests.chaos.facts import Facts


def lost(facts: Facts) -> Iterator[str]:
    """Operations that have not ended."""
    for operation in facts.operations:
        if operation.state is BulkState.RUNNING:
            yield f"bulk operation {operation.id} is running"


def twice(facts: Facts) -> Iterator[str]:
    """Jobs that were retried more or less often than operations say. Nothing else retries these jobs."""
    retries = Counter(id for each in facts.operations if each.kind is BulkKind.RETRY for id in each.jobs)
    for job in facts.jobs:
        if job.name == BROKEN:
            states = [step.state for step in facts.steps.get(job.id, ())]
            count = sum(state in FINALIZED and following not in FINALIZED for state, following in pairwise(states))
            if count != retries[job.id]:
                yield f"job {job.id} of {job.key} was retried {count} times, by {retries[job.id]} bulk operations"


def miscounted(facts: Facts) -> Iterator[str]:
    """Operations whose numbers are not those of their jobs."""
    for operation in facts.operations:
        if not operation.changed == len(operation.jobs) <= operation.done <= operation.total:
            numbers = f"total {operation.total}, done {operation.done}, changed {operation.changed}"
            yield f"bulk operation {operation.id} has {len(operation.jobs)} jobs, and says {numbers}"
