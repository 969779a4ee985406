"""When the status of a work item changes, wherever it is changed, who is part of it gets one mail; what follows soon
after is gathered into another."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import work_items
from app.accounts import Role, User, on_behalf_of
from app.audit import AuditEntry
from app.work_items import DigestEntry, Story, Task, WorkItem, WorkItemWatcher, WorkStatus, comments, history_of
from app.work_items.emails import MAX_MENTIONS_PER_HOUR
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import database_now
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.mail.rendering import render
from flask_belfry.outbox import JobRecord, JobState, publisher
from flask_belfry.outbox.relay import relay
from tests.forms import shown_in
from tests.job_records import waits_for_lock
from tests.ledger import addressees, contexts, mails
from tests.reservation_factories import bearer, log_in, make_user
from tests.servers import wait_until
from tests.work_item_factories import make_epic, make_story, make_task

STATUS, DIGEST_JOB = "work-item-status", "work_items.tell_gathered"


@pytest.fixture
def settings(settings, request):
    """With a mail server where a test asks for one."""
    if "smtp" not in request.fixturenames:
        return settings
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(request.getfixturevalue("smtp").port)}


def move(item: WorkItem, *statuses: str) -> None:
    for status in statuses:
        item.status = status
        db.session.commit()


def gathering() -> list[JobRecord]:
    return list(db.session.scalars(sa.select(JobRecord).where(JobRecord.name == DIGEST_JOB).order_by(JobRecord.id)))


def send_digest(item: WorkItem) -> int:
    """What the job does when its time has come."""
    told = work_items.send_digest(db.session(), item.id)
    now = utc_now()
    db.session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED, finished_at=now))
    db.session.commit()
    return told


@pytest.mark.parametrize("make", [make_epic, make_story, make_task])
def test_a_change_of_status_mails_who_sees_to_it_and_who_reported_it(session, make):
    responsible, reporter = make_user(), make_user()
    item = make(responsible=responsible, reporter=reporter)
    assert mails() == [], "nothing is sent on creation"
    move(item, "IN_PROGRESS")
    change = session.scalars(sa.select(StatusChange).where(StatusChange.field == "status")).one()
    sent = mails(STATUS)
    assert sorted(mail.recipients[0] for mail in sent) == sorted([responsible.email, reporter.email])
    assert {mail.change_id for mail in sent} == {change.id}
    assert {mail.state for mail in sent} == {MailState.QUEUED}
    assert {(mail.subject_type, mail.subject_id) for mail in sent} == {("work_item", str(item.id))}
    assert gathering() == []


def test_one_who_is_both_gets_one_mail(session):
    both = make_user()
    move(make_task(responsible=both, reporter=both), "DONE")
    assert addressees(STATUS) == [both.email]


def test_watchers_are_mailed_too_and_each_person_once(session):
    watcher, reporter = make_user(), make_user()
    task = make_task(reporter=reporter)
    session.add_all([WorkItemWatcher(item_id=task.id, user_id=user.id) for user in (watcher, reporter)])
    move(task, "BLOCKED")
    assert addressees(STATUS) == sorted([watcher.email, reporter.email])


def test_disabled_and_unconfirmed_users_are_not_mailed(session):
    gone, unconfirmed = make_user(active=False), make_user(confirmed_at=None)
    move(make_task(responsible=gone, reporter=unconfirmed), "DONE")
    assert mails(STATUS) == []


def test_an_invalid_address_is_skipped_and_stops_no_other(session):
    reporter = make_user()
    move(make_task(responsible=make_user(email="no address"), reporter=reporter), "DONE")
    states = {mail.recipients[0] if mail.recipients else None: mail.state for mail in mails(STATUS)}
    assert states[reporter.email] is MailState.QUEUED
    assert sorted(states.values()) == [MailState.QUEUED, MailState.SKIPPED]


def test_the_author_of_a_change_is_mailed_too(session):
    reporter = make_user(Role.STAFF)
    task = make_task(reporter=reporter)
    with use_actor(Actor(reporter.id)):
        move(task, "IN_PROGRESS")
    (mail,) = mails(STATUS)
    context = contexts(STATUS, [mail])[mail.id]
    assert (mail.recipients, context["by_reader"]) == ([reporter.email], True)


def test_nothing_is_sent_when_nothing_changed_or_it_was_rolled_back(session):
    task = make_task()
    task.status = "TODO"
    session.commit()
    task.status = "DONE"
    session.flush()
    session.rollback()
    task.title, task.priority = "Another title", "CRITICAL"
    session.commit()
    assert mails(STATUS) == []


def test_the_mail_says_what_changed_who_did_it_and_where_to_look(app, session):
    staff = make_user(Role.STAFF, name="Grace Hopper")
    epic = make_epic(title="The <autumn> concert")
    story = make_story(epic=epic, title="Rehearsals", priority="HIGH", due_date=None)
    with use_actor(Actor(staff.id)):
        move(story, "IN_PROGRESS")
    (mail,) = mails(STATUS)
    story.status = "DONE"  # the mail reports the change, not the current status
    rendered = render(STATUS, contexts(STATUS, [mail])[mail.id], mail.recipients[0])
    assert rendered.subject == f"In progress: Rehearsals (story #{story.id})"
    for part in (rendered.text, rendered.html):
        assert "Grace Hopper moved this story to" in part
        assert f"{app.config['PUBLIC_URL']}/work-items/{story.id}" in part
        assert "High" in part
    assert "To do -> In progress" in rendered.text
    assert "“The <autumn> concert”" in rendered.text
    assert "&lt;autumn&gt;" in rendered.html


def test_the_footer_says_what_each_reader_has_to_do_with_the_item(session):
    responsible, reporter, watcher = make_user(), make_user(), make_user()
    epic, story = make_epic(responsible=responsible), make_story(responsible=responsible, reporter=reporter)
    session.add(WorkItemWatcher(item_id=story.id, user_id=watcher.id))
    move(epic, "IN_PROGRESS")
    move(story, "IN_PROGRESS")
    sent = mails(STATUS)
    given = contexts(STATUS, sent)
    reasons = {(mail.recipients[0], mail.subject_id): given[mail.id]["reason"] for mail in sent}
    assert reasons[responsible.email, str(epic.id)] == "you are the owner of this epic"
    assert reasons[responsible.email, str(story.id)] == "you are the assignee of this story"
    assert reasons[reporter.email, str(story.id)] == "you reported this story"
    assert reasons[watcher.email, str(story.id)] == "you watch this story"


def test_further_changes_within_the_window_are_collected_into_one_digest_with_all_steps(session):
    task = make_task()
    move(task, "IN_PROGRESS")
    assert len(mails(STATUS)) == 1
    move(task, "IN_REVIEW", "DONE")
    assert len(mails(STATUS)) == 1
    (job,) = gathering()
    assert 25 < (job.scheduled_at - utc_now()).total_seconds() <= 30
    assert send_digest(task) == 1
    _, gathered = mails(STATUS)
    context = contexts(STATUS, [gathered])[gathered.id]
    assert context["way"] == ["IN_PROGRESS", "IN_REVIEW", "DONE"]
    last = session.scalars(sa.select(StatusChange).where(StatusChange.new == "DONE")).one()
    assert gathered.change_id == last.id
    assert send_digest(task) == 0, "reported once"


def pass_window(item: WorkItem) -> None:
    """Makes it so long ago that a mail about the item was asked for."""
    statement = sa.update(DigestEntry).where(DigestEntry.item_id == item.id)
    db.session.execute(statement.values(gather_until=database_now(-1.0)))
    db.session.commit()


def steps(mail: EmailMessage) -> list[str]:
    return [step["new"] for step in mail.context["way"]]


def test_a_status_that_returns_to_its_start_is_not_notified_and_delays_no_other(session):
    task = make_task()
    move(task, "IN_PROGRESS", "DONE", "IN_PROGRESS")
    pass_window(task)
    assert send_digest(task) == 0
    assert len(mails(STATUS)) == 1
    move(task, "BLOCKED")
    assert [steps(mail) for mail in mails(STATUS)] == [["IN_PROGRESS"], ["BLOCKED"]], "nothing was mailed meanwhile"


def test_a_change_without_recipients_delays_no_other(session):
    task, reporter = make_task(), make_user()
    task.reporter = None
    move(task, "IN_PROGRESS")
    task.reporter = reporter
    move(task, "DONE")
    assert [steps(mail) for mail in mails(STATUS)] == [["DONE"]]


def test_after_the_window_a_change_is_mailed_immediately_again(session):
    task = make_task()
    move(task, "IN_PROGRESS", "DONE")
    assert (len(mails(STATUS)), len(gathering())) == (1, 1)
    pass_window(task)
    assert send_digest(task) == 1
    move(task, "TODO")
    assert (len(mails(STATUS)), len(gathering())) == (2, 2), "the gathered mail opens another window"
    pass_window(task)
    send_digest(task)
    pass_window(task)
    move(task, "BLOCKED")
    assert (len(mails(STATUS)), len(gathering())) == (4, 2)


@pytest.mark.parametrize("seconds", [0.5, -0.5, -3_600])
def test_no_step_is_lost_or_reported_twice_with_wrong_clocks_of_hosts(session, seconds):
    task = make_task()
    with time_machine.travel(utc_now(), tick=False) as clock:
        for status in ("IN_PROGRESS", "IN_REVIEW", "DONE", "BLOCKED"):
            move(task, status)
            clock.shift(timedelta(seconds=seconds))
        assert send_digest(task) == 1
        pass_window(task)
        move(task, "TODO")
    assert sorted(map(steps, mails(STATUS))) == [["IN_PROGRESS"], ["IN_REVIEW", "DONE", "BLOCKED"], ["TODO"]]
    shown = [entry.to_status for entry in history_of(task)]
    assert shown == ["TODO", "BLOCKED", "DONE", "IN_REVIEW", "IN_PROGRESS", "TODO"]


def test_changes_in_bulk_that_no_hook_hears_are_numbered_too(session):
    tasks = [make_task(), make_task()]
    for priority in ("HIGH", "LOW"):
        session.execute(sa.update(Task).values(priority=priority))
    session.commit()
    for task in tasks:
        of_task = sa.select(StatusChange.number, StatusChange.new).where(StatusChange.subject_id == str(task.id))
        assert [tuple(row) for row in session.execute(of_task.order_by(StatusChange.number))] == [
            (1, "HIGH"),
            (2, "LOW"),
        ]


def test_changes_of_a_failed_digest_job_are_reported_with_the_next_change(session):
    task = make_task()
    move(task, "IN_PROGRESS", "IN_REVIEW")
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED, finished_at=utc_now()))
    pass_window(task)
    move(task, "DONE")
    assert [job.state for job in gathering()] == [JobState.FAILED, JobState.PENDING]
    assert send_digest(task) == 1
    assert steps(mails(STATUS)[-1]) == ["IN_REVIEW", "DONE"]


def test_without_workers_every_change_is_mailed_immediately(app, session):
    """JOBS_EAGER: a delayed digest job might never run."""
    app.config["JOBS_EAGER"] = True
    move(make_task(), "IN_PROGRESS", "DONE")
    assert [steps(mail) for mail in mails(STATUS)] == [["IN_PROGRESS"], ["DONE"]]


def test_a_change_that_comes_before_a_late_job_waits_for_it_and_no_step_is_lost(session):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        task = make_task()
        move(task, "IN_PROGRESS")
        clock.shift(10)
        move(task, "IN_REVIEW")
        clock.shift(60)  # the workers are down
        pass_window(task)
        move(task, "DONE")
        assert (len(mails(STATUS)), len(gathering())) == (1, 1)
        assert send_digest(task) == 1
    last = mails(STATUS)[-1]
    assert [step["new"] for step in last.context["way"]] == ["IN_REVIEW", "DONE"]


def test_the_window_is_a_setting(app, session):
    app.config["WORK_ITEM_GATHER_SECONDS"] = 0.0
    move(make_task(), "IN_PROGRESS", "DONE")
    assert (len(mails(STATUS)), gathering()) == (2, [])


def test_a_digest_of_a_deleted_item_is_skipped(session):
    task = make_task()
    move(task, "IN_PROGRESS", "DONE")
    id = task.id
    session.delete(task)
    session.commit()
    assert work_items.send_digest(session, id) == 0
    sent = mails(STATUS)
    assert contexts(STATUS, sent) == {mail.id: None for mail in sent}, "what waits is skipped"


def by_api(client, item, staff):
    path = f"/api/v1/{item.kind.plural}/{item.id}"
    assert client.patch(path, json={"status": "DONE"}, headers=bearer(staff)).status_code == 200


def by_api_in_bulk(client, item, staff):
    body = {"ids": [item.id], "changes": {"status": "DONE"}}
    assert client.post(f"/api/v1/{item.kind.plural}/bulk", json=body, headers=bearer(staff)).status_code == 200


def by_command(client, item, staff):
    command = ["work-items", "set-status", "DONE", str(item.id), "--as", staff.username]
    result = client.application.test_cli_runner().invoke(args=command)
    assert (result.exit_code, result.output.strip()) == (0, "1 moved to DONE")


def by_shell(client, item, staff):
    found = db.session.get(WorkItem, item.id)
    found.status = WorkStatus.DONE
    db.session.commit()


def by_bulk_statement(client, item, staff):
    db.session.execute(sa.update(WorkItem).where(WorkItem.id == item.id).values(status="DONE"))
    db.session.commit()


def by_bulk_statement_on_the_kind(client, item, staff):
    db.session.execute(sa.update(type(item)).where(WorkItem.id == item.id).values(status=WorkStatus.DONE))
    db.session.commit()


def by_the_page_of_the_item(client, item, staff):
    log_in(client, staff)
    assert client.post(f"/work-items/{item.id}/status", data={"status": "DONE"}).status_code in (302, 303)


def by_the_board(client, item, staff):
    log_in(client, staff)
    headers = {"Accept": "application/json"}
    assert client.post(f"/work-items/{item.id}/move", data={"status": "DONE"}, headers=headers).status_code == 204


def by_the_list(client, item, staff):
    log_in(client, staff)
    assert client.post("/work-items/bulk", data={"ids": [item.id], "status": "DONE"}).status_code in (302, 303)


def by_the_form_of_the_panel(client, item, staff):
    log_in(client, make_user(Role.ADMIN))
    url = f"/admin/work_items/edit/?id={item.id}"
    form = shown_in(client.get(url).text)
    assert client.post(url, data=form | {"status": "DONE"}).status_code == 303


def by_an_action_of_the_panel(client, item, staff):
    log_in(client, make_user(Role.ADMIN))
    data = {"action": "set-DONE", "rowid": [item.id], "confirmed": "yes"}
    assert client.post("/admin/work_items/action/", data=data).status_code == 303


WAYS = [
    *(by_api, by_api_in_bulk, by_command, by_shell, by_bulk_statement, by_bulk_statement_on_the_kind),
    *(by_the_page_of_the_item, by_the_board, by_the_list, by_the_form_of_the_panel, by_an_action_of_the_panel),
]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        *((make_task, way) for way in WAYS),
        *((make, way) for make in (make_epic, make_story) for way in (by_api, by_bulk_statement_on_the_kind)),
    ],
)
def test_the_same_mails_are_sent_from_wherever_the_status_is_changed(client, session, make, change):
    responsible, staff = make_user(), make_user(Role.STAFF)
    item = make(responsible=responsible)
    expected = sorted([responsible.email, item.reporter.email])
    id = item.id
    change(client, item, staff)
    assert addressees(STATUS) == expected
    assert {tuple(step[name] for name in ("old", "new")) for mail in mails(STATUS) for step in mail.context["way"]} == {
        ("TODO", "DONE")
    }
    assert db.session.get(WorkItem, id).status is WorkStatus.DONE


def test_a_change_concurrent_with_the_digest_job_is_in_the_next_digest(app, session):
    """It is reported exactly once: both lock the item."""
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    task = make_task()
    move(task, "IN_PROGRESS", "IN_REVIEW")
    id, holds, waits = task.id, threading.Event(), threading.Event()

    def gather() -> int:
        with app.app_context():
            told = work_items.send_digest(db.session(), id)
            holds.set()
            assert waits.wait(10)
            db.session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED, finished_at=utc_now()))
            db.session.commit()  # the job's end and what it did, as a worker does it
            return told

    def change() -> None:
        with app.app_context():
            assert holds.wait(10)
            db.session.get(Task, id).status = WorkStatus.DONE
            db.session.commit()

    with ThreadPoolExecutor(2) as threads:
        gathered, changed = threads.submit(gather), threads.submit(change)
        wait_until(lambda: waits_for_lock(session))
        waits.set()
        assert (gathered.result(), changed.result()) == (1, None)
    session.rollback()
    assert [job.state for job in gathering()] == [JobState.COMPLETED, JobState.SCHEDULED]
    assert send_digest(task) == 1
    last = mails(STATUS)[-1]
    assert [(step["old"], step["new"]) for step in last.context["way"]] == [("IN_REVIEW", "DONE")]


def test_a_bulk_change_is_mailed_with_a_few_statements(session, statements):
    people = [make_user() for _ in range(5)]
    story = make_story()
    tasks = [make_task(story=story, responsible=people[number % 5], reporter=people[0]) for number in range(40)]
    statements.clear()
    session.execute(sa.update(Task).values(status=WorkStatus.IN_PROGRESS))
    session.commit()
    assert len(mails(STATUS)) == 40 + 32
    assert len(statements) < 25, "set-based: not a statement per row"
    assert session.get(Task, tasks[0].id).status is WorkStatus.IN_PROGRESS


def test_the_history_shows_the_mails_that_a_change_caused_and_the_rest(session):
    staff = make_user(Role.STAFF, name="Grace Hopper")
    story = make_story(responsible=make_user(name="Ada Lovelace"))
    other = make_epic(title="Another epic")
    with use_actor(Actor(staff.id)):
        move(story, "IN_PROGRESS")
        story.priority, story.parent, story.responsible = "CRITICAL", other, None
        session.commit()
    edited, moved, created = history_of(story)
    query = sa.select(StatusChange.old).where(StatusChange.field == "parent_id")
    old = session.get(WorkItem, int(session.scalars(query).one()))
    assert (created.from_status, created.to_status) == (None, "TODO")
    assert (moved.who, moved.from_status, moved.to_status, len(moved.mails)) == (
        "Grace Hopper",
        "TODO",
        "IN_PROGRESS",
        2,
    )
    assert set(edited.note.split("; ")) == {
        "priority: MEDIUM → CRITICAL",
        f"epic: #{old.id} {old.title} → #{other.id} Another epic",
        "assignee: Ada Lovelace → none",
    }


def test_created_and_deleted_items_are_in_the_audit_log(session):
    task = make_task()
    id = str(task.id)
    session.delete(task)
    session.commit()
    query = sa.select(AuditEntry.action).where(AuditEntry.subject_id == id, AuditEntry.subject_type == "work_item")
    assert list(session.scalars(query.order_by(AuditEntry.id))) == ["work_item.create", "work_item.delete"]


def test_gathered_mails_go_out_by_themselves(app, session, smtp, work):
    """The job that gathers, run by a worker when its time has come."""
    task = make_task()
    move(task, "IN_PROGRESS", "IN_REVIEW", "DONE")
    (job,) = gathering()
    long_ago = utc_now() - timedelta(minutes=1)
    past = {"scheduled_at": long_ago, "created_at": long_ago}
    session.execute(sa.update(JobRecord).where(JobRecord.id == job.id).values(past))
    session.commit()
    relay(publisher())
    work()
    assert len(mails(STATUS)) == 2
    assert session.get(JobRecord, job.id, populate_existing=True).result == {"mails": 1}
    assert [mail.message["Subject"].split(":")[0] for mail in smtp.received] == ["In progress", "Done"]


def test_a_story_needs_an_epic(session):
    session.add(Story(title="Nobody's", reporter=make_user()))
    with pytest.raises(sa.exc.IntegrityError):
        session.flush()
    session.rollback()


def test_log_in_shows_the_item(client):
    staff = make_user(Role.STAFF)
    log_in(client, staff)
    task = make_task(title="Tune the piano")
    assert "Tune the piano" in client.get(f"/work-items/{task.id}").text


def test_who_wants_none_of_their_own_changes_gets_those_of_others(session):
    ada, other = make_user(Role.STAFF, skips_own_changes=True), make_user(Role.STAFF)
    task = make_task(reporter=ada, responsible=other)
    with use_actor(Actor(ada.id)):
        move(task, "IN_PROGRESS")
    assert addressees(STATUS) == [other.email]
    with use_actor(Actor(ada.id)):
        move(task, "IN_REVIEW")
    assert send_digest(task) == 1, "the whole way was theirs"
    task_of_both = make_task(reporter=ada, responsible=other)
    with use_actor(Actor(ada.id)):
        move(task_of_both, "IN_PROGRESS", "IN_REVIEW")
    with use_actor(Actor(other.id)):
        move(task_of_both, "DONE")
    assert send_digest(task_of_both) == 2, "a part of the way was another's"


def test_one_person_mails_another_so_many_mentions_in_an_hour_and_others_still_do(session, smtp, work, clock):
    author, other, reader, item = make_user(Role.STAFF), make_user(Role.STAFF), make_user(), make_task()
    session.commit()

    def mention(by: User, number: int) -> None:
        with on_behalf_of(by):
            for _ in range(number):
                comments.comment(by, item, f"@{reader.username} look")
            session.commit()
        work()

    def states() -> Counter[str]:
        session.rollback()
        return Counter(session.scalars(sa.select(EmailMessage.state).where(EmailMessage.kind == "work-item-mention")))

    mention(author, MAX_MENTIONS_PER_HOUR - 1)
    mention(author, 3)
    assert states() == {MailState.SENT: MAX_MENTIONS_PER_HOUR, MailState.SKIPPED: 2}
    mention(other, 1)
    assert states()[MailState.SENT] == MAX_MENTIONS_PER_HOUR + 1
    clock.shift(3_601)
    mention(author, 1)
    assert states()[MailState.SENT] == MAX_MENTIONS_PER_HOUR + 2
