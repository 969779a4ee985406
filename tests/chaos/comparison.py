"""Comparing the books. Every finding is a sentence with the ids by which its story can be looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from flask_belfry.mail import MailState
from flask_belfry.operations.bulk import RUN
from flask_belfry.outbox import FINALIZED, JobState
from tests.chaos import notices, operations
from tests.chaos.book import Fate
from tests.chaos.domain import BROKEN, RUNNING
from tests.chaos.facts import Facts, Job, Mail, is_undone

MAILS_AT_AN_END = frozenset(
    {
        MailState.SENT,
        MailState.FAILED,
        MailState.CANCELLED,
        MailState.SKIPPED,
        MailState.SUPPRESSED,
        MailState.UNCERTAIN,
        MailState.BOUNCED,
    }
)
# Uncertain: its worker was killed while it sent it, and nothing sends it again.
ENDED_BY_A_CANCEL = (MailState.CANCELLED, MailState.SKIPPED, MailState.UNCERTAIN)


@dataclass
class Findings:
    """What was found: every list but the last breaks a promise.

    Args:
        lost: committed, and it did not come to its end.
        phantom: it happened, and nothing that committed asked for it.
        doubled: mails received twice outside of the recorded uncertain window.
        twice: effects on the database that were had twice.
        failed: jobs that failed, or mails, and neither a refusal nor deaths in a row explain it.
        over_limit: limited jobs that ran beside more of their key than its limit allows.
        disagreeing: notifications whose state or deliveries contradict the ledger or the servers.
        late: mails and push messages of a notification that was cancelled before.
        foreign: rows, mails and push messages of another school.
        miscounted: counts that differ from what they count.
        tracebacks: those in the logs that no outage explains.
        deadlocks: transactions that waited for each other, of which one failed.
        uncertain: mails received twice within the recorded window.
    """

    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    over_limit: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    deadlocks: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """Those that break a promise, by name."""
        named = {
            "lost": self.lost,
            "phantom": self.phantom,
            "doubled": self.doubled,
            "effects twice": self.twice,
            "failed": self.failed,
            "over limit": self.over_limit,
            "disagreeing": self.disagreeing,
            "after a cancel": self.late,
            "another school's": self.foreign,
            "miscounted": self.miscounted,
            "tracebacks": self.tracebacks,
            "deadlocks": self.deadlocks,
        }
        return {name: found for name, found in named.items() if found}


def compare(facts: Facts) -> Findings:
    """Holds the books against each other."""
    return Findings(
        lost=[
            *_lost_transactions(facts),
            *_lost_jobs(facts),
            *_lost_mails(facts),
            *_lost_ticks(facts),
            *notices.lost(facts),
            *operations.lost(facts),
        ],
        phantom=[
            *_phantom_transactions(facts),
            *_phantom_effects(facts),
            *_phantom_mails(facts),
            *notices.phantom(facts),
        ],
        doubled=[
            *(_twice_received(mail, facts) for mail in _received_again(facts) if not _is_explained(mail, facts)),
            *notices.doubled(facts),
        ],
        twice=[
            *(f"effect {key} was had {count} times" for key, count in facts.effects.items() if count > 1),
            *operations.twice(facts),
        ],
        failed=[*_failed_jobs(facts), *_failed_mails(facts)],
        over_limit=list(_over_limit(facts)),
        disagreeing=list(notices.disagreeing(facts)),
        late=list(notices.late(facts)),
        foreign=list(facts.foreign),
        miscounted=[*facts.miscounted, *operations.miscounted(facts)],
        tracebacks=list(facts.tracebacks),
        deadlocks=list(facts.deadlocks),
        uncertain=[_twice_received(mail, facts) for mail in _received_again(facts) if _is_explained(mail, facts)],
    )


def _lost_transactions(facts: Facts) -> Iterator[str]:
    for key, fate in facts.book.items():
        if fate is Fate.COMMITTED and key not in facts.committed:
            yield f"transaction {key} was reported as committed, and SQL does not have it"


def _phantom_transactions(facts: Facts) -> Iterator[str]:
    for key in sorted(facts.committed):
        if facts.book.get(key) is Fate.ROLLED_BACK:
            yield f"transaction {key} was reported as rolled back, and SQL has it"
        elif is_undone(key):
            yield f"{key} was rolled back to a savepoint, and SQL has it"
        elif key not in facts.book:
            yield f"SQL has transaction {key}, which the load never began"


def _lost_jobs(facts: Facts) -> Iterator[str]:
    for job in facts.jobs:
        if job.state not in FINALIZED:
            yield f"{_described(job)} is {job.state}"
    for id in facts.open_batches:
        yield f"batch {id} is not finished"
    failed = {job.key for job in facts.jobs if job.state in (JobState.FAILED, JobState.CANCELLED)}
    for key in sorted(facts.expected_effects - facts.effects.keys() - failed):
        yield f"effect {key} was committed to and never had"


def _phantom_effects(facts: Facts) -> Iterator[str]:
    for key in sorted(facts.effects.keys() - facts.expected_effects):
        yield f"effect {key} was had, and nothing that committed asks for it"
    for job in facts.jobs:
        if job.key is not None and job.key not in facts.expected_effects:
            yield f"{_described(job)} exists, and nothing that committed asks for it"


def _lost_mails(facts: Facts) -> Iterator[str]:
    for key in sorted(facts.expected_mails - {mail.key for mail in facts.mails}):
        yield f"mail {key} was committed to and is not in the ledger"
    for mail in facts.mails:
        if mail.state not in MAILS_AT_AN_END:
            yield f"{_written(mail)} is {mail.state}"
        elif mail.state is MailState.SENT and not facts.received.get(mail.message_id):
            yield f"{_written(mail)} counts as sent and never reached the server"


def _phantom_mails(facts: Facts) -> Iterator[str]:
    for mail in facts.mails:
        if mail.key not in facts.expected_mails:
            yield f"{_written(mail)} is in the ledger, and nothing that committed asks for it"
    for message_id in sorted(facts.received.keys() - {mail.message_id for mail in facts.mails}):
        yield f"the server received {message_id}, which the ledger does not know"


def _received_again(facts: Facts) -> list[Mail]:
    return [mail for mail in facts.mails if facts.received.get(mail.message_id, 0) > 1]


def _is_explained(mail: Mail, facts: Facts) -> bool:
    return facts.received[mail.message_id] <= 1 + mail.uncertain


def _failed_jobs(facts: Facts) -> Iterator[str]:
    mail_jobs = {mail.job_id for mail in facts.mails}
    explained = notices.explained(facts)
    for job in facts.jobs:
        is_failed = job.state in (JobState.FAILED, JobState.CANCELLED)
        is_explained = not (facts.poisoned | explained).isdisjoint([job.id, job.after_id]) or job.name == BROKEN
        # A bulk operation that was stopped; it must have ended, see `operations.lost`.
        is_explained |= job.name == RUN and job.state is JobState.CANCELLED
        if is_failed and job.id not in mail_jobs and not is_explained:
            yield f"{_described(job)} is {job.state}: {job.error}"


def _failed_mails(facts: Facts) -> Iterator[str]:
    cancelled = notices.mails_of_cancelled(facts)
    for mail in facts.mails:
        is_refused = mail.message_id in facts.refused or mail.job_id in facts.poisoned
        is_explained = mail.state is MailState.FAILED and is_refused
        is_explained |= mail.state in ENDED_BY_A_CANCEL and mail.id in cancelled
        if mail.state in MAILS_AT_AN_END and mail.state is not MailState.SENT and not is_explained:
            yield f"{_written(mail)} is {mail.state}: {mail.error}"


def _over_limit(facts: Facts) -> Iterator[str]:
    """Yield each start of a limited job at which too many of its key ran.

    A job runs from the step `running` to its next one, both written while its transaction has locked the limit key.
    """
    limited = {job.id: job for job in facts.jobs if job.limit_key is not None}
    entered = sorted((step.at, step.state, id) for id in limited for step in facts.steps.get(id, ()))
    running: set[str] = set()
    for at, state, id in entered:
        if state != JobState.RUNNING:
            running.discard(id)
            continue
        running.add(id)
        if len(running) > RUNNING:
            yield f"{_described(limited[id])} began at {at:.3f} beside {len(running) - 1} of its limit key"


def _lost_ticks(facts: Facts) -> Iterator[str]:
    """The schedule of the load's time ticks every so many seconds: the steps between its ticks are all the same."""
    for name, ticks in facts.ticks.items():
        gaps = [later - earlier for earlier, later in pairwise(ticks)]
        for (earlier, later), gap in zip(pairwise(ticks), gaps, strict=True):
            if gap > min(gaps):
                yield f"schedule {name} has no tick on record between {earlier:.0f} and {later:.0f}"


def _twice_received(mail: Mail, facts: Facts) -> str:
    return f"{_written(mail)} was received {facts.received[mail.message_id]} times, {mail.uncertain} uncertain"


def _described(job: Job) -> str:
    return f"{job.name} {job.id}" + (f" of {job.key}" if job.key else "")


def _written(mail: Mail) -> str:
    return f"mail {mail.id} ({mail.key}, job {mail.job_id})"


def story(facts: Facts, text: str) -> Sequence[str]:
    """The steps of every job whose id is in a finding."""
    return [
        f"{step.at:.3f} {step.state} claim {step.claim} {step.worker or ''}"
        for id, steps in facts.steps.items()
        if id in text
        for step in steps
    ]
