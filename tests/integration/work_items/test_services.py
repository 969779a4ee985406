"""The order of cards, comments and whom they name, and reminders."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app import work_items
from app.accounts import Role
from app.work_items import WorkItem, WorkItemWatcher, WorkStatus, comments, ordering, queries
from app.work_items.comments import mentions_in
from flask_belfry.changes import StatusChange
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.mail.rendering import render
from tests.ledger import addressees, contexts, mails
from tests.reservation_factories import make_school, make_user
from tests.work_item_factories import make_epic, make_story, make_task

MENTION, DUE = "work-item-mention", "work-item-due"


@pytest.fixture
def staff(app):
    return make_user(Role.STAFF)


def column(user, status=WorkStatus.TODO) -> list[int]:
    found = next(each for each in queries.board(user, queries.Filters()) if each.status is status)
    return [item.id for item in found.items]


def test_cards_are_in_the_order_of_their_creation_and_moves(session, staff):
    first, second, third = (make_epic() for _ in range(3))
    assert column(staff) == [first.id, second.id, third.id]
    work_items.move(staff, third, "TODO", None)
    session.commit()
    assert column(staff) == [third.id, first.id, second.id]
    work_items.move(staff, third, "TODO", first.id)
    session.commit()
    assert column(staff) == [first.id, third.id, second.id]
    work_items.move(staff, first, "TODO", second.id)
    session.commit()
    assert column(staff) == [third.id, second.id, first.id]
    assert session.scalars(sa.select(StatusChange).where(StatusChange.field == "status")).all() == []


def test_a_move_to_another_column_changes_the_status_and_sends_mails(session, staff):
    here, there = make_epic(), make_epic(status="DONE")
    work_items.move(staff, here, "DONE", there.id)
    session.commit()
    assert (column(staff), column(staff, WorkStatus.DONE)) == ([], [there.id, here.id])
    assert len(mails("work-item-status")) == 1


def test_cards_with_too_close_positions_are_spread(session, staff):
    crowd = [make_epic(position=1_000 + number // 2) for number in range(ordering.NEIGHBOURS + 20)]
    moved, before = make_epic(), {item.id: item.updated_at for item in crowd}
    for above in (crowd[0], crowd[30], crowd[0]):
        order = column_of_all(session, without=moved.id)
        work_items.move(staff, moved, "TODO", above.id)
        session.commit()
        at = order.index(above.id) + 1
        assert column_of_all(session) == [*order[:at], moved.id, *order[at:]]
    session.expire_all()
    assert {item.id: item.updated_at for item in crowd} == before, "who makes room was not changed"


def column_of_all(session, without: int = 0) -> list[int]:
    query = sa.select(WorkItem.id).where(WorkItem.id != without).order_by(WorkItem.position, WorkItem.id)
    return list(session.scalars(query))


def test_a_card_goes_below_one_of_its_new_column_only(session, staff):
    here, there = make_epic(), make_epic(status="DONE")
    for status, below in (("TODO", there.id), ("DONE", here.id), ("GONE", None)):
        with pytest.raises(InvalidInputError):
            work_items.move(staff, here, status, below)
    with pytest.raises(NotFoundError):
        work_items.move(staff, here, "TODO", 999_999)
    watcher = make_user()
    comments.comment(staff, here, f"@{watcher.username}")
    with pytest.raises(ForbiddenError):
        work_items.move(watcher, here, "DONE", None)


def test_an_unexpected_status_is_a_conflict(session, staff):
    item = make_epic(status="DONE")
    with pytest.raises(ConflictError, match=f"Epic #{item.id} is done now, no longer to do"):
        work_items.set_status(staff, item, "BLOCKED", expected="TODO")
    work_items.set_status(staff, item, "BLOCKED", expected="DONE")
    assert item.status is WorkStatus.BLOCKED


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@ada and @Grace.Hopper, look", {"ada", "grace.hopper"}),
        ("mail ada@example.org, (@ada)", {"ada"}),
        ("@ada.", {"ada"}),
        ("@@ada @a", set()),
        ("no one", set()),
    ],
)
def test_who_is_named(text, names):
    assert mentions_in(text) == names


def test_who_is_named_gets_a_mail_watches_the_item_and_may_see_it(session, staff):
    task, ada = make_task(title="Tune the piano"), make_user(name="Ada Lovelace")
    said = comments.comment(staff, task, f"@{ada.username.upper()} can you <b>bring</b> it?\n@{staff.username}")
    session.commit()
    assert addressees(MENTION) == [ada.email], "authors are not mailed their own comments"
    assert {ada.id, staff.id} == set(session.scalars(sa.select(WorkItemWatcher.user_id)))
    assert queries.get(ada, task.id).id == task.id
    (mail,) = mails(MENTION)
    rendered = render(MENTION, contexts(MENTION, [mail])[mail.id], ada.email)
    assert "can you &lt;b&gt;bring&lt;/b&gt; it?<br>" in rendered.html
    assert "can you <b>bring</b> it?" in rendered.text
    comments.edit_comment(staff, said, f"@{ada.username}, @{task.reporter.username}: tomorrow")
    session.commit()
    assert addressees(MENTION) == sorted([ada.email, task.reporter.email]), "once each"


def test_mentions_by_members_mail_only_people_who_see_the_item(session, staff):
    member, stranger = make_user(), make_user()
    task = make_task(responsible=member)
    comments.comment(member, task, f"@{stranger.username} @{staff.username} @{task.reporter.username}")
    session.commit()
    assert addressees(MENTION) == sorted([staff.email, task.reporter.email])
    with pytest.raises(NotFoundError):
        queries.get(stranger, task.id)


def test_users_of_another_school_cannot_be_mentioned(session, staff):
    elsewhere = make_user(school_id=make_school().id)
    comments.comment(staff, make_task(), f"@{elsewhere.username}")
    session.commit()
    assert mails(MENTION) == []


def test_a_comment_that_names_too_many_is_refused(session, staff):
    task = make_task()
    with pytest.raises(InvalidInputError):
        comments.comment(staff, task, " ".join(f"@user{number}" for number in range(21)))
    session.rollback()
    assert queries.comments_of(task).items == []


def test_comments_are_changed_by_their_author_and_deleted_by_staff_too(session, staff):
    author = make_user()
    task = make_task(responsible=author)
    said = comments.comment(author, task, "Ready")
    session.commit()
    with pytest.raises(ForbiddenError):
        comments.edit_comment(staff, said, "Never")
    comments.edit_comment(author, said, "Soon")
    assert said.edited_at is not None
    with pytest.raises(NotFoundError):
        comments.get_comment(make_user(), said.id)
    with pytest.raises(ForbiddenError):
        comments.delete_comment(task.reporter, said.id)
    comments.delete_comment(staff, said)
    session.commit()
    assert queries.comments_of(task).items == []


def remind(moment: datetime) -> int:
    with time_machine.travel(moment, tick=False):
        asked = work_items.remind_due(db.session())
        db.session.commit()
    return asked


def test_the_responsible_user_is_reminded_the_day_before_and_once_when_overdue(session):
    day = date(2031, 5, 10)
    task = make_task(responsible=make_user(), due_date=day)
    unassigned = make_task(due_date=day)
    make_task(due_date=day, status="DONE")
    noon = datetime(2031, 5, 8, 12, tzinfo=UTC)
    asked = [remind(noon + timedelta(days=days)) for days in (0, 1, 1, 2, 3, 3, 4, 20)]
    assert asked == [0, 2, 0, 0, 2, 0, 0, 0]
    assert addressees(DUE) == sorted([task.responsible.email, unassigned.reporter.email] * 2)
    due, _, overdue, _ = mails(DUE)
    assert "due tomorrow" in render(DUE, contexts(DUE, [due])[due.id], "a@example.org").text
    assert "was due on" in render(DUE, contexts(DUE, [overdue])[overdue.id], "a@example.org").text
    reasons = {mail.recipients[0]: contexts(DUE, [mail])[mail.id]["reason"] for mail in mails(DUE)}
    assert reasons[task.responsible.email] == "you are the assignee of this task"
    assert reasons[unassigned.reporter.email] == "you reported this task"


def test_a_new_due_date_gets_a_new_reminder_and_the_old_mail_is_skipped(session):
    task = make_task(due_date=date(2031, 5, 10))
    assert remind(datetime(2031, 5, 9, 12, tzinfo=UTC)) == 1
    task.due_date = date(2031, 5, 20)
    session.commit()
    assert contexts(DUE, mails(DUE)) == {mails(DUE)[0].id: None}
    assert remind(datetime(2031, 5, 19, 12, tzinfo=UTC)) == 1


def test_the_day_is_that_of_the_school(app, session):
    app.config["TIMEZONE"] = "Pacific/Auckland"
    make_task(due_date=date(2031, 5, 10))
    assert remind(datetime(2031, 5, 8, 13, tzinfo=UTC)) == 1, "there it is the 9th"


def test_reminders_of_many_take_a_few_statements(session, statements):
    story, person = make_story(due_date=None), make_user()
    for _ in range(30):
        make_task(story=story, responsible=person, due_date=(utc_now() + timedelta(days=1)).date())
    statements.clear()
    assert work_items.remind_due(session) == 30
    assert len(statements) < 12
