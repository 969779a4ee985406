"""The chaos finds what it looks for: each broken promise, put into the books by hand, is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from flask_belfry.mail import MailState
from flask_belfry.outbox import JobState
from tests.chaos.book import UNDONE, Book, Fate, read_book
from tests.chaos.comparison import compare, story
from tests.chaos.facts import Facts, Job, JobStep, Mail, Worker
from tests.chaos.faults import kinds
from tests.chaos.plan import REST_SECONDS, Prefetch, plan
from tests.chaos.rescues import deaths, rescues
from tests.chaos.services import Kill

PACE = Prefetch(gap_seconds=(0.2, 3.0), calm_seconds=(6.0, 14.0), calms=0.25)
EFFECT = Job("j1", "chaos.quick", JobState.COMPLETED, "t1/0")
DELIVERY = Job("j2", "mail.deliver", JobState.COMPLETED)
MAIL = Mail("m1", "reservation-new/1", MailState.SENT, "<m1@x>", "j2")
WELL = Facts(
    book={"t1": Fate.COMMITTED, "t2": Fate.ROLLED_BACK, "t3": Fate.UNSURE},
    committed=frozenset({"t1"}),
    expected_effects=frozenset({"t1/0"}),
    effects=Counter(["t1/0"]),
    expected_mails=frozenset({"reservation-new/1"}),
    jobs=[EFFECT, DELIVERY],
    mails=[MAIL],
    received=Counter(["<m1@x>"]),
    ticks={"sweep": [0, 2, 4]},
)


def with_job(**values: Any) -> Facts:
    return replace(WELL, jobs=[replace(EFFECT, **values), DELIVERY])


def limited(*entered: tuple[str, str, float]) -> Facts:
    """Limited jobs of one key, as (job, state, at)."""
    ids = sorted({id for id, _, _ in entered})
    jobs = [Job(id, "chaos.limited", JobState.COMPLETED, limit_key="chaos") for id in ids]
    steps = {id: [JobStep(state, 1, "light-a", at) for of, state, at in entered if of == id] for id in ids}
    return replace(WELL, jobs=[*WELL.jobs, *jobs], steps=steps)


THREE_RUN = [("a", "running", 1.0), ("b", "running", 2.0), ("c", "running", 4.0), ("c", "completed", 9.0)]


def with_mail(**values: Any) -> Facts:
    return replace(WELL, mails=[replace(MAIL, **values)])


def test_books_that_agree_break_no_promise() -> None:
    assert compare(WELL).broken == {}


@pytest.mark.parametrize(
    ("promise", "facts"),
    [
        ("lost", replace(WELL, book={**WELL.book, "t4": Fate.COMMITTED})),
        ("lost", with_job(state=JobState.QUEUED)),
        ("lost", with_job(state=JobState.RUNNING)),
        ("lost", replace(WELL, effects=Counter())),
        ("lost", replace(WELL, mails=[])),
        ("lost", with_mail(state=MailState.SENDING)),
        ("lost", replace(WELL, received=Counter())),
        ("lost", replace(WELL, open_batches=["b1"])),
        ("over limit", limited(*THREE_RUN, ("a", "completed", 5.0))),
        ("lost", replace(WELL, ticks={"sweep": [0, 2, 6]})),
        ("phantom", replace(WELL, committed=frozenset({"t1", "t2"}))),
        ("phantom", replace(WELL, committed=frozenset({"t1", "t1" + UNDONE}))),
        ("phantom", replace(WELL, committed=frozenset({"t1", "t9"}))),
        ("phantom", replace(WELL, effects=Counter(["t1/0", "t2/0"]))),
        ("phantom", with_job(key="t2/0")),
        ("phantom", with_mail(key="reservation-new/2")),
        ("phantom", replace(WELL, received=Counter(["<m1@x>", "<m2@x>"]))),
        ("doubled", replace(WELL, received=Counter({"<m1@x>": 2}))),
        ("doubled", replace(with_mail(uncertain=1), received=Counter({"<m1@x>": 3}))),
        ("effects twice", replace(WELL, effects=Counter({"t1/0": 2}))),
        ("failed", with_job(state=JobState.FAILED)),
        ("failed", with_job(state=JobState.CANCELLED)),
        ("failed", with_mail(state=MailState.FAILED)),
        ("failed", with_mail(state=MailState.SKIPPED)),
    ],
)
def test_a_broken_promise_is_named(promise: str, facts: Facts) -> None:
    assert promise in compare(facts).broken


def test_an_unsure_transaction_is_what_sql_says() -> None:
    assert compare(replace(WELL, committed=frozenset({"t1", "t3"}))).broken == {}


def test_a_mail_received_twice_within_its_recorded_window_is_counted_and_breaks_nothing() -> None:
    findings = compare(replace(with_mail(uncertain=1), received=Counter({"<m1@x>": 2})))
    assert (findings.broken, len(findings.uncertain)) == ({}, 1)


def test_a_mail_that_the_server_refused_may_fail() -> None:
    facts = replace(with_mail(state=MailState.FAILED), refused=frozenset({"<m1@x>"}), received=Counter())
    assert compare(facts).broken == {}


def test_a_limited_job_may_start_when_another_has_ended() -> None:
    assert compare(limited(*THREE_RUN, ("a", "completed", 3.0))).broken == {}


def test_the_successor_of_a_job_that_was_given_up_may_be_cancelled() -> None:
    successor = Job("j3", "chaos.quick", JobState.CANCELLED, "t1/0/after", after_id="j1")
    facts = replace(WELL, jobs=[*WELL.jobs, successor], expected_effects=WELL.expected_effects | {"t1/0/after"})
    assert list(compare(facts).broken) == ["failed"]
    assert compare(replace(facts, poisoned=frozenset({"j1"}))).broken == {}


def steps(*entered: tuple[str, float, str | None], others: Sequence[tuple[float, float]] = ()) -> Facts:
    """A job's steps, and when others of its queue came and began."""
    found = {"j1": [JobStep(state, 0, worker, at) for state, at, worker in entered]}
    for number, (came_at, began_at) in enumerate(others):
        found[f"o{number}"] = [JobStep("pending", 0, None, came_at), JobStep("running", 1, "light-b", began_at)]
    workers = {"light-a": Worker(7, 0), "light-b": Worker(8, 0), "light-c": Worker(9, 38)}
    return Facts(steps=found, workers=workers, queues=dict.fromkeys(found, "default"))


def rescued(
    back_at: float, again_at: float, others: Sequence[tuple[float, float]] = (), worker: str = "light-b"
) -> Facts:
    worked = ("pending", 0, None), ("running", 1, "light-a")
    return steps(*worked, ("pending", back_at, "light-a"), ("running", again_at, worker), others=others)


KILLED = rescued(11, 12)
BLOW = [Kill(7, 2.0)]


def test_a_rescue_takes_from_the_kill_to_the_next_claim() -> None:
    (rescue,) = rescues(KILLED, BLOW, stalls=[1.5, 13.0])
    assert (rescue.job_id, rescue.back_seconds, rescue.seconds, rescue.is_disturbed) == ("j1", 9.0, 10.0, False)
    assert not rescue.is_slow


def test_the_time_of_a_rescue_restarts_after_an_outage() -> None:
    (rescue,) = rescues(KILLED, BLOW, stalls=[5.0])
    assert (rescue.seconds, rescue.is_disturbed) == (7.0, True)


@pytest.mark.parametrize(
    ("facts", "is_slow"),
    [
        (rescued(18, 19), True),
        (rescued(11, 40), True),
        (rescued(11, 40, others=[(5, 20), (6, 35)]), False),
        (rescued(11, 40, others=[(5, 20), (12, 35)]), True),
        (rescued(18, 40, others=[(5, 20), (6, 35)]), True),
        (rescued(11, 40, worker="light-c"), False),
        (rescued(11, 40, others=[(12, 35)], worker="light-c"), True),
    ],
    ids=[
        "back late",
        "run late",
        "behind others",
        "overtaken",
        "back late, behind others",
        "no other worker",
        "another worker took others",
    ],
)
def test_a_rescue_is_slow_unless_the_workers_had_too_much_to_do(facts: Facts, is_slow: bool) -> None:
    (rescue,) = rescues(facts, BLOW, stalls=[])
    assert rescue.is_slow is is_slow


def test_the_wait_of_a_blocked_job_for_its_turn_is_not_part_of_its_rescue() -> None:
    worked = ("pending", 0, None), ("running", 1, "light-a")
    facts = steps(*worked, ("pending", 11, "light-a"), ("blocked", 12, None), ("running", 40, "light-b"))
    (rescue,) = rescues(facts, BLOW, stalls=[])
    assert not rescue.is_slow


def test_no_rescue_is_seen_where_the_killed_process_did_not_hold_the_job() -> None:
    ended = steps(("running", 1, "light-a"), ("completed", 2.5, "light-a"))
    assert rescues(KILLED, [Kill(8, 2.0), Kill(7, 0.5)], stalls=[]) == []
    assert rescues(ended, BLOW, stalls=[]) == []


def test_a_job_that_never_runs_again_is_lost_and_not_a_rescue() -> None:
    assert rescues(steps(("running", 1, "light-a")), BLOW, stalls=[]) == []


def test_a_job_whose_process_was_struck_so_often_may_be_given_up() -> None:
    twice = steps(("running", 1, "light-a"), ("pending", 3, None), ("running", 4, "light-b"), ("failed", 6, None))
    assert deaths(twice, [Kill(7, 2.0), Kill(7, 2.5), Kill(8, 5.0), Kill(8, 7.0)]) == {"j1": 2}
    facts = with_job(state=JobState.FAILED)
    assert compare(replace(facts, poisoned=frozenset({"j1"}))).broken == {}


def test_the_story_of_a_finding_lists_the_steps_of_its_job() -> None:
    assert len(story(KILLED, "effect of job j1 …")) == 4


def test_a_seed_gives_the_same_faults_again() -> None:
    assert plan("a", 100, kinds(10), PACE) == plan("a", 100, kinds(10), PACE)
    assert plan("a", 100, kinds(10), PACE) != plan("b", 100, kinds(10), PACE)


def test_every_kind_strikes_before_one_strikes_again() -> None:
    every = kinds(10)
    assert {fault.kind for fault in plan("a", len(every), every, PACE)} == set(every)


def test_no_target_is_struck_while_it_suffers() -> None:
    by_target: dict[str, list[Any]] = {}
    for fault in plan("a", 300, kinds(10), PACE):
        by_target.setdefault(fault.target, []).append(fault)
    for faults in by_target.values():
        assert all(later.at >= earlier.at + earlier.seconds + REST_SECONDS for earlier, later in pairwise(faults))


def test_the_book_keeps_the_last_fate_of_each_transaction(tmp_path: Any) -> None:
    book = Book(tmp_path / "book.txt")
    for key, fate in (("t1", Fate.ASKED), ("t2", Fate.ASKED), ("t1", Fate.ROLLED_BACK)):
        book.write(key, fate)
    assert read_book(tmp_path / "book.txt") == {"t1": Fate.ROLLED_BACK, "t2": Fate.ASKED}
