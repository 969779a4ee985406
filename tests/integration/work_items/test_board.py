"""The board of work items."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
import sqlalchemy as sa

from app.work_items import WorkItem, WorkItemWatcher, WorkStatus
from app.work_items.queries import CARDS_PER_COLUMN
from flask_belfry.changes import StatusChange
from flask_belfry.core.presentation import date_today
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage
from tests.reservation_factories import make_user
from tests.work_item_factories import make_story, make_task
from tests.work_item_pages import again, cards

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SCRIPT = {"Accept": "application/json"}


def test_the_board_has_a_column_for_each_status_and_each_card_in_its_own(client, staff):
    todo, done = make_task(), make_task(status="DONE")
    page = client.get("/work-items/board").text
    shown = cards(page)
    assert list(shown) == list(WorkStatus)
    assert todo.id in shown["TODO"]
    assert shown["DONE"] == [done.id]
    assert 'aria-labelledby="column-IN_PROGRESS-title"' in page
    assert "In progress" in page


def test_the_board_shows_stories_and_tasks_unless_a_kind_is_chosen(client, staff):
    task = make_task()
    story, epic = task.parent, task.parent.parent
    assert cards(client.get("/work-items/board").text)["TODO"] == [story.id, task.id]
    assert cards(client.get("/work-items/board?kind=epic").text)["TODO"] == [epic.id]
    assert cards(client.get("/work-items/board?kind=lost").text)["TODO"] == [story.id, task.id]


def test_the_board_is_narrowed_to_an_epic_to_a_person_and_to_words(client, staff):
    mine = make_task(responsible=staff, title="Ring the bell")
    make_task()
    story, epic = mine.parent, mine.parent.parent
    assert cards(client.get(f"/work-items/board?within={epic.id}").text)["TODO"] == [story.id, mine.id]
    assert cards(client.get(f"/work-items/board?within={story.id}").text)["TODO"] == [mine.id]
    for query in ("mine=1", f"responsible={staff.id}", "text=the+BELL", f"text=%23{mine.id}"):
        assert cards(client.get(f"/work-items/board?{query}").text)["TODO"] == [mine.id], query


def test_a_card_shows_the_facts_of_an_item(client, staff):
    story = make_story(title="The hall", responsible=make_user(name="Grace Hopper"), priority="CRITICAL")
    for status in ("DONE", "TODO", "DONE"):
        make_task(story=story, status=status)
    story.due_date = date_today() - timedelta(days=1)
    db.session.commit()
    card = client.get("/work-items/board?kind=story").text.partition('id="card-')[2].partition("</li>")[0]
    for said in ("2 of 3 parts done", "critical priority", "Overdue since", "Grace Hopper", f"#{story.id}", ">Story<"):
        assert said in card
    assert story.parent.title in card


def test_a_full_column_shows_its_first_cards_and_leads_to_the_list(client, staff):
    story = make_story()
    row = {"kind": "task", "title": "One of many", "status": "TODO", "priority": "LOW", "description": ""}
    many = [
        {**row, "position": n, "parent_id": story.id, "school_id": story.school_id, "reporter_id": staff.id}
        for n in range(CARDS_PER_COLUMN + 3)
    ]
    db.session.connection().execute(sa.insert(WorkItem.__table__), many)
    db.session.commit()
    page = client.get(f"/work-items/board?kind=task&within={story.id}").text
    assert len(cards(page)["TODO"]) == CARDS_PER_COLUMN
    assert f"All {CARDS_PER_COLUMN + 3} in the list" in page
    assert f'href="/work-items?kind=task&amp;within={story.id}&amp;status=TODO"' in page


def test_the_columns_are_asked_for_again_and_answered_shortly_while_nothing_changes(client, staff):
    task = make_task()
    first = client.get("/work-items/board/columns")
    assert "<html" not in first.text
    seen = {"If-None-Match": first.headers["ETag"]}
    again = client.get("/work-items/board/columns", headers=seen)
    assert (again.status_code, again.data) == (304, b"")
    client.post(f"/work-items/{task.id}/move", data={"status": "DONE"}, headers=SCRIPT)
    changed = client.get("/work-items/board/columns", headers=seen)
    assert changed.status_code == 200
    assert cards(changed.text)["DONE"] == [task.id]


def test_a_card_is_dropped_below_another_and_stays_there(client, staff):
    story = make_story()
    first, second, moved = (make_task(story=story) for _ in range(3))
    answer = client.post(
        f"/work-items/{moved.id}/move",
        data={"status": "TODO", "below_id": first.id, "expected_status": "TODO"},
        headers=SCRIPT,
    )
    assert (answer.status_code, answer.data) == (204, b"")
    assert cards(client.get("/work-items/board?kind=task").text)["TODO"] == [first.id, moved.id, second.id]
    assert db.session.scalar(sa.select(sa.func.count()).select_from(EmailMessage)) == 0


def test_a_card_that_changes_its_column_mails_the_people_involved(client, staff):
    task = make_task(responsible=make_user())
    client.post(f"/work-items/{task.id}/move", data={"status": "IN_REVIEW", "below_id": ""}, headers=SCRIPT)
    assert again(task).status is WorkStatus.IN_REVIEW
    recipients = {mail.recipients[0] for mail in db.session.scalars(sa.select(EmailMessage))}
    assert recipients == {task.responsible.email, task.reporter.email}
    change = db.session.scalars(sa.select(StatusChange)).one()
    assert (change.old, change.new, change.user_id) == ("TODO", "IN_REVIEW", staff.id)


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"status": "DONE", "expected_status": "BLOCKED"}, 409, "is to do now, no longer blocked."),
        ({"status": "LOST"}, 422, "Invalid status."),
        ({"status": "DONE", "below_id": "{other}"}, 422, "is not in that column."),
    ],
)
def test_a_move_that_is_refused_says_why(client, staff, sent, status, said):
    task, other = make_task(), make_task()
    sent = {name: value.format(other=other.id) for name, value in sent.items()}
    answer = client.post(f"/work-items/{task.id}/move", data=sent, headers=SCRIPT)
    assert answer.status_code == status
    assert said in answer.json["message"]
    assert again(task).status is WorkStatus.TODO
    # Without a script the board says it, with the same filters.
    answer = client.post(f"/work-items/{task.id}/move?kind=task&_external=1", data=sent)
    assert (answer.status_code, answer.location) == (303, "/work-items/board?kind=task")
    assert said in client.get(answer.location).text


def test_a_card_is_moved_by_its_menu_without_a_script(client, staff):
    task = make_task()
    page = client.get("/work-items/board?text=%23" + str(task.id)).text
    action = re.search(rf'value="DONE" formaction="(/work-items/{task.id}/move[^"]*)"', page)
    assert action
    answer = client.post(action[1].replace("&amp;", "&"), data={"status": "DONE"}, follow_redirects=True)
    assert f"Task #{task.id} is done." in answer.text
    assert cards(answer.text)["DONE"] == [task.id]


def test_a_move_by_the_menu_can_be_undone_to_the_place_it_came_from(client, staff):
    story = make_story()
    first, moved, last = (make_task(story=story) for _ in range(3))
    answer = client.post(
        f"/work-items/{moved.id}/move?kind=task&expected_status=TODO", data={"status": "DONE"}, follow_redirects=True
    )
    assert cards(answer.text)["DONE"] == [moved.id]
    undo = re.search(r' form="move-form" name="status" value="TODO" formaction="([^"]+)">Undo<', answer.text)
    undone = client.post(unescape(undo[1]), data={"status": "TODO"}, follow_redirects=True)
    assert cards(undone.text)["TODO"] == [first.id, moved.id, last.id]
    assert undone.request.args.to_dict() == {"kind": "task"}


def test_an_undo_after_a_move_by_another_user_is_refused(client, staff):
    task = make_task()
    answer = client.post(f"/work-items/{task.id}/move", data={"status": "DONE"}, follow_redirects=True)
    undo = unescape(re.search(r'formaction="([^"]+)">Undo<', answer.text)[1])
    client.post(f"/work-items/{task.id}/move", data={"status": "BLOCKED"}, headers=SCRIPT)
    answer = client.post(undo, data={"status": "TODO"}, follow_redirects=True)
    assert "is blocked now, no longer done" in answer.text
    assert ">Undo<" not in answer.text.partition('id="board-undo"')[0]


def test_a_member_sees_what_they_are_part_of_and_moves_what_is_theirs(client, member):
    theirs, watched = make_task(responsible=member), make_task()
    make_task()
    db.session.add(WorkItemWatcher(item_id=watched.id, user_id=member.id))
    db.session.commit()
    page = client.get("/work-items/board").text
    assert cards(page)["TODO"] == [theirs.id, watched.id]
    assert f'id="handle-{theirs.id}"' in page
    assert f'id="handle-{watched.id}"' not in page
    assert "New item" not in page
    # What these are parts of is not the member's to see.
    assert theirs.parent.title not in page
    answer = client.post(f"/work-items/{watched.id}/move", data={"status": "DONE"}, headers=SCRIPT)
    assert answer.status_code == 403
    assert client.post(f"/work-items/{theirs.id}/move", data={"status": "DONE"}, headers=SCRIPT).status_code == 204


def test_an_empty_board_says_what_to_do(client, staff):
    page = client.get("/work-items/board").text
    assert "No items to do." in page
    assert "Start with an epic." in client.get("/work-items").text


def test_the_navigation_leads_to_the_board(client, member):
    page = client.get("/work-items").text
    assert '<a class="nav-item-link" href="/work-items/board" aria-current="page">' in page
    assert "No work items" in page
