"""The chaos finds what it looks for: each broken promise, put into the books by hand, is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from app.notifications import DeliveryState, NotificationChannel, NotificationState, ScheduledState
from flask_belfry.mail import MailState
from flask_belfry.operations import BulkKind, BulkState
from flask_belfry.outbox import JobState
from tests.chaos.book import UNDONE, Book, Fate, read_book, read_times
from tests.chaos.comparison import compare, story
from tests.chaos.facts import Delivery, Facts, Job, JobStep, Mail, Notice, Operation, Scheduled, Worker
from tests.chaos.faults import kinds
from tests.chaos.logs import deadlocks, tracebacks
from tests.chaos.plan import REST_SECONDS, Prefetch, plan
from tests.chaos.rescues import deaths, rescues
from tests.chaos.services import Kill

PACE = Prefetch(gap_seconds=(0.2, 3.0), calm_seconds=(6.0, 14.0), calms=0.25)
EFFECT = Job("j1", "chaos.quick", JobState.COMPLETED, "t1/0")
DELIVERY = Job("j2", "mail.deliver", JobState.COMPLETED)
MAIL = Mail("m1", "reservation-new/1", MailState.SENT, "<m1@x>", "j2")
BY_MAIL = Delivery("d1", "n1", 7, NotificationChannel.MAIL, DeliveryState.DELIVERED, email_id="m2")
BY_PUSH = Delivery("d2", "n1", 7, NotificationChannel.PUSH, DeliveryState.DELIVERED, job_id="j4")
NOTICE = Notice("n1", "t1", NotificationState.FINISHED, ("mail", "push"), frozenset({7}), "b1")
SCHEDULED = Scheduled("s1", "t1", ScheduledState.SENT, "n1")
BROKEN = Job("j5", "chaos.broken", JobState.FAILED, "t1/1")
OPERATION = Operation("o1", BulkKind.RETRY, BulkState.FINISHED, total=2, done=1, changed=1, jobs=frozenset({"j5"}))
RETRIED = [
    JobStep(state, 1, None, at) for at, state in enumerate(("running", "failed", "pending", "running", "failed"))
]
WELL = Facts(
    book={"t1": Fate.COMMITTED, "t2": Fate.ROLLED_BACK, "t3": Fate.UNSURE},
    committed=frozenset({"t1"}),
    expected_effects=frozenset({"t1/0", "t1/1"}),
    effects=Counter(["t1/0"]),
    expected_mails=frozenset({"reservation-new/1", "notification/d1"}),
    jobs=[EFFECT, DELIVERY, Job("j4", "notifications.push", JobState.COMPLETED), BROKEN],
    mails=[MAIL, Mail("m2", "notification/d1", MailState.SENT, "<m2@x>", "j3", recipients=("ada@x",))],
    received=Counter(["<m1@x>", "<m2@x>"]),
    ticks={"sweep": [0, 2, 4]},
    steps={"j5": RETRIED},
    received_at={"<m2@x>": [9.0]},
    notices=[NOTICE],
    deliveries=[BY_MAIL, BY_PUSH],
    scheduled=[SCHEDULED],
    emails={7: "ada@x"},
    devices={7: ["k1", "k2"]},
    pushes={("n1", "k1"): [9.0], ("n1", "k2"): [9.0]},
    operations=[OPERATION],
)


def with_job(**values: Any) -> Facts:
    return replace(WELL, jobs=[replace(EFFECT, **values), *WELL.jobs[1:]])


def limited(*entered: tuple[str, str, float]) -> Facts:
    """Limited jobs of one key, as (job, state, at)."""
    ids = sorted({id for id, _, _ in entered})
    jobs = [Job(id, "chaos.limited", JobState.COMPLETED, limit_key="chaos") for id in ids]
    steps = {id: [JobStep(state, 1, "light-a", at) for of, state, at in entered if of == id] for id in ids}
    return replace(WELL, jobs=[*WELL.jobs, *jobs], steps={**WELL.steps, **steps})


THREE_RUN = [("a", "running", 1.0), ("b", "running", 2.0), ("c", "running", 4.0), ("c", "completed", 9.0)]


def with_mail(**values: Any) -> Facts:
    return replace(WELL, mails=[replace(MAIL, **values), *WELL.mails[1:]])


def with_mail_of_notice(**values: Any) -> Facts:
    return replace(WELL, mails=[MAIL, replace(WELL.mails[1], **values)])


def with_notice(**values: Any) -> Facts:
    return replace(WELL, notices=[replace(NOTICE, **values)])


def with_push(facts: Facts = WELL, **values: Any) -> Facts:
    return replace(facts, deliveries=[BY_MAIL, replace(BY_PUSH, **values)])


def with_job_of_push(state: JobState) -> Facts:
    return replace(WELL, jobs=[replace(job, state=state) if job.id == "j4" else job for job in WELL.jobs])


def with_operation(**values: Any) -> Facts:
    return replace(WELL, operations=[replace(OPERATION, **values)])


def pushed(*times: float, steps: Sequence[tuple[str, float]] = ()) -> Facts:
    """When the first device got the message, and the steps of its job."""
    of_job = [JobStep(state, 1, "light-a", at) for state, at in steps]
    return replace(WELL, pushes={**WELL.pushes, ("n1", "k1"): times}, steps={**WELL.steps, "j4": of_job})


def cancelled(facts: Facts, at: float) -> Facts:
    """The notification was cancelled, and its deliveries came first."""
    return replace(facts, notices=[replace(NOTICE, state=NotificationState.CANCELLED, cancelled_at=at)])


RESCUED = [("running", 1.0), ("pending", 12.0), ("running", 13.0), ("completed", 14.0)]


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
        ("phantom", replace(WELL, received=WELL.received + Counter(["<m3@x>"]))),
        ("doubled", replace(WELL, received=WELL.received + Counter(["<m1@x>"]))),
        ("doubled", replace(with_mail(uncertain=1), received=WELL.received + Counter({"<m1@x>": 2}))),
        ("effects twice", replace(WELL, effects=Counter({"t1/0": 2}))),
        ("lost", with_notice(state=NotificationState.SENDING)),
        ("lost", with_notice(people=frozenset({7, 8}))),
        ("lost", with_push(state=DeliveryState.DEFERRED)),
        ("lost", replace(WELL, scheduled=[replace(SCHEDULED, state=ScheduledState.SCHEDULED)])),
        ("lost", replace(WELL, scheduled=[SCHEDULED, replace(SCHEDULED, id="s2", key="t3")])),
        ("lost", with_operation(state=BulkState.RUNNING)),
        ("phantom", with_notice(key="t2")),
        ("phantom", replace(WELL, scheduled=[replace(SCHEDULED, key="t2")])),
        ("phantom", replace(WELL, scheduled=[replace(SCHEDULED, state=ScheduledState.CANCELLED)])),
        ("phantom", replace(WELL, pushes={**WELL.pushes, ("n1", "k3"): [9.0]})),
        ("doubled", replace(WELL, notices=[NOTICE, replace(NOTICE, id="n2", people=frozenset())])),
        ("doubled", pushed(2.0, 3.0)),
        ("doubled", pushed(2.0, 3.0, 13.5, steps=RESCUED)),
        ("disagreeing", with_mail_of_notice(state=MailState.FAILED)),
        ("disagreeing", with_mail_of_notice(recipients=("other@x",))),
        ("disagreeing", with_push(state=DeliveryState.CANCELLED)),
        ("disagreeing", with_push(state=DeliveryState.FAILED)),
        ("disagreeing", with_job_of_push(JobState.FAILED)),
        ("disagreeing", with_push(replace(WELL, pushes={}))),
        ("disagreeing", with_push(replace(WELL, pushes={}), state=DeliveryState.FAILED)),
        ("disagreeing", with_push(replace(WELL, pushes={}), state=DeliveryState.SKIPPED, reason="no device")),
        ("after a cancel", cancelled(pushed(9.0, steps=[("running", 8.0), ("completed", 9.5)]), 7.0)),
        ("after a cancel", cancelled(WELL, 7.0)),
        ("effects twice", replace(WELL, operations=[])),
        ("effects twice", replace(WELL, operations=[OPERATION, replace(OPERATION, id="o2")])),
        ("effects twice", replace(WELL, steps={})),
        ("miscounted", with_operation(changed=2)),
        ("miscounted", with_operation(done=3)),
        ("miscounted", replace(WELL, miscounted=["statistics count 2 completed jobs, and there are 3"])),
        ("tracebacks", replace(WELL, tracebacks=["web.log, line 3: request.failed: KeyError: 'a'"])),
        ("deadlocks", replace(WELL, deadlocks=["Process 7 waits for ShareLock"])),
        ("another school's", replace(WELL, foreign=["mail m1 of school 1 is about reservation 3 of school 2"])),
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
    findings = compare(replace(with_mail(uncertain=1), received=WELL.received + Counter(["<m1@x>"])))
    assert (findings.broken, len(findings.uncertain)) == ({}, 1)


def test_a_mail_that_the_server_refused_may_fail() -> None:
    facts = replace(with_mail(state=MailState.FAILED), refused=frozenset({"<m1@x>"}), received=Counter(["<m2@x>"]))
    assert compare(facts).broken == {}


def test_a_message_that_a_killed_process_was_sending_may_come_again() -> None:
    assert compare(pushed(2.0, 13.5, steps=RESCUED)).broken == {}


def test_what_a_worker_had_claimed_before_a_cancel_may_still_be_sent() -> None:
    on_the_way = cancelled(pushed(9.0, steps=[("running", 6.0), ("completed", 9.5)]), 7.0)
    claims = {**on_the_way.steps, "j3": [JobStep("running", 1, "light-a", 6.5)]}
    pushes = {("n1", "k1"): [9.0]}
    assert compare(replace(on_the_way, steps=claims, pushes=pushes)).broken == {}


def test_a_push_message_that_fcm_refused_may_fail() -> None:
    facts = with_push(replace(WELL, pushes={}, refused_pushes=frozenset({"k1"})), state=DeliveryState.FAILED)
    failed = with_job_of_push(JobState.FAILED)
    assert compare(replace(facts, jobs=failed.jobs)).broken == {}
    assert list(compare(failed).broken) == ["failed", "disagreeing"]


def test_what_a_user_cancels_on_the_pages_of_jobs_may_be_cancelled() -> None:
    facts = with_push(replace(with_job_of_push(JobState.CANCELLED), pushes={}), state=DeliveryState.CANCELLED)
    assert list(compare(facts).broken) == ["failed", "disagreeing"]
    assert compare(replace(facts, cancelled_jobs=frozenset({"j4"}))).broken == {}


def test_a_push_message_that_a_mail_replaces_may_be_cancelled() -> None:
    facts = replace(with_job_of_push(JobState.CANCELLED), pushes={})
    facts = with_push(facts, state=DeliveryState.CANCELLED, reason="mailed instead")
    assert compare(facts).broken == {}
    unmailed = replace(facts, deliveries=facts.deliveries[1:], notices=[replace(NOTICE, channels=("push",))])
    assert "disagreeing" in compare(unmailed).broken


def test_the_jobs_and_mails_of_a_cancelled_notification_may_be_cancelled() -> None:
    job = Job("j6", "notifications.deliver", JobState.CANCELLED, batch_id="b1")
    mail = replace(WELL.mails[1], state=MailState.CANCELLED)
    deliveries = [replace(BY_MAIL, state=DeliveryState.CANCELLED), BY_PUSH]
    facts = replace(WELL, jobs=[*WELL.jobs, job], mails=[MAIL, mail], deliveries=deliveries)
    facts = replace(facts, received=Counter(["<m1@x>"]), received_at={})
    assert list(compare(facts).broken) == ["failed", "disagreeing"]
    assert compare(cancelled(facts, 10.0)).broken == {}


def test_a_limited_job_may_start_when_another_has_ended() -> None:
    assert compare(limited(*THREE_RUN, ("a", "completed", 3.0))).broken == {}


def test_the_successor_of_a_job_that_was_given_up_may_be_cancelled() -> None:
    successor = Job("j7", "chaos.quick", JobState.CANCELLED, "t1/0/after", after_id="j1")
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


def test_a_traceback_that_no_outage_explains_is_named(tmp_path: Any) -> None:
    traced = '{"event": "request.failed", "exception": "Traceback (most recent call last):\\n  ...\\n%s"}'
    lines = [
        '{"event": "job.completed"}',
        traced % "KeyError: 1",
        traced % "psycopg.errors.AdminShutdown: x",
        "--- Logging error ---",
        "Traceback (most recent call last):",
    ]
    (tmp_path / "web.log").write_text("\n".join(lines))
    first, second = tracebacks(tmp_path)
    assert first == "web.log, line 2: request.failed: KeyError: 1"
    assert second.startswith("web.log, line 5: ")


def test_the_transactions_of_a_deadlock_are_read_from_the_log(tmp_path: Any) -> None:
    lines = [
        "2026-11-30 19:20:58.756 UTC [9] LOG:  checkpoint starting",
        "2026-11-30 19:20:58.756 UTC [7] ERROR:  deadlock detected",
        "2026-11-30 19:20:58.756 UTC [7] DETAIL:  Process 7 waits for ShareLock; blocked by process 8.",
        "\tProcess 8: SELECT 1",
        "2026-11-30 19:20:58.756 UTC [7] HINT:  See server log for query details.",
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    (deadlock,) = deadlocks(tmp_path / "log")
    assert "Process 7 waits for" in deadlock
    assert deadlock.endswith("Process 8: SELECT 1")


def test_the_book_has_the_times_of_the_commits(tmp_path: Any) -> None:
    book = Book(tmp_path / "book.txt")
    for key, fate in (("t1", Fate.COMMITTED), ("t2", Fate.ASKED), ("t3", Fate.UNSURE)):
        book.write(key, fate)
    assert list(read_times(tmp_path / "book.txt")) == ["t1"]
