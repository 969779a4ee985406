"""The pages of work items."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.work_items import Epic, Story, Task, WorkItem, WorkItemComment, WorkItemWatcher, WorkStatus
from app.work_items.queries import CARDS_PER_COLUMN
from flask_belfry.changes import StatusChange
from flask_belfry.core.presentation import date_today
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage
from tests.reservation_factories import log_in, make_school, make_user
from tests.work_item_factories import make_epic, make_story, make_task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SCRIPT = {"Accept": "application/json"}
HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def staff(client):
    user = make_user(Role.STAFF)
    log_in(client, user)
    return user


@pytest.fixture
def member(client):
    user = make_user()
    log_in(client, user)
    return user


def cards(page: str) -> dict[str, list[int]]:
    """The ids of the cards by column."""
    columns = re.findall(r'data-column="(\w+)"(.*?)</section>', page, re.DOTALL)
    return {status: [int(id) for id in re.findall(r'id="card-(\d+)"', text)] for status, text in columns}


def rows(page: str) -> list[int]:
    return [int(id) for id in re.findall(r'<tr id="item-(\d+)"', page)]


def typed(**values) -> dict[str, str]:
    return {"title": "Tune the piano", "description": "", "priority": "MEDIUM", "due_date": "", **values}


def again(item: WorkItem) -> WorkItem:
    db.session.refresh(item)
    return item


# ── The board ────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_filters_of_the_list_are_in_the_url(client, staff):
    late = make_task(status="BLOCKED", priority="HIGH", due_date=date_today() - timedelta(days=1))
    soon = make_task(due_date=date_today() + timedelta(days=7), responsible=staff, description="Mind the CELLO")
    expected = {
        "kind=task": [soon.id, late.id],
        "status=BLOCKED": [late.id],
        "priority=HIGH": [late.id],
        "due=overdue": [late.id],
        "due=week": [soon.id, late.id],
        "mine=1": [soon.id],
        f"responsible={staff.id}": [soon.id],
        "text=cello": [soon.id],
        f"within={late.parent.parent_id}": [late.id, late.parent_id],
    }
    for query, ids in expected.items():
        assert rows(client.get(f"/work-items?{query}").text) == ids, query
    assert "No items match" in client.get("/work-items?status=IN_REVIEW").text


def test_a_filter_that_is_none_is_ignored(client, staff):
    epic = make_epic()
    for query in ("status=lost", "within=x", "responsible=99999999999999", "due=never", "text=%00"):
        assert rows(client.get(f"/work-items?{query}").text) == [epic.id], query


def test_the_list_goes_on_behind_a_cursor(client, staff):
    for _ in range(27):
        make_epic(reporter=staff)
    page = client.get("/work-items").text
    assert len(rows(page)) == 25
    cursor = page.partition("cursor=")[2].partition('"')[0]
    assert len(rows(client.get(f"/work-items?cursor={cursor}").text)) == 2


def test_many_are_changed_with_one_post_and_the_filters_stay(client, staff):
    first, second, other = make_task(), make_task(), make_task()
    person = make_user()
    sent = {"ids": [first.id, second.id], "status": "DONE", "priority": "LOW", "responsible": str(person.id)}
    answer = client.post("/work-items/bulk?kind=task&cursor=x", data=sent)
    assert (answer.status_code, answer.location) == (303, "/work-items?kind=task")
    assert "2 items changed." in client.get(answer.location).text
    for item in (first, second):
        assert (again(item).status, item.priority, item.responsible_id) == ("DONE", "LOW", person.id)
    assert again(other).status is WorkStatus.TODO
    client.post("/work-items/bulk", data={"ids": [first.id], "responsible": "none"})
    assert (again(first).responsible_id, first.status) == (None, "DONE")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"status": "DONE"}, "Select items and a change."),
        ({"ids": "{task}"}, "Select items and a change."),
        ({"ids": ["{task}", "99999"], "status": "DONE"}, "These items do not exist: #99999. Nothing was changed."),
        ({"ids": "{task}", "status": "LOST"}, "Invalid status. Nothing was changed."),
        ({"ids": "{task}", "responsible": "99999", "status": "DONE"}, "Some fields are invalid. Nothing was changed."),
    ],
)
def test_a_change_of_many_that_is_refused_changes_none(client, staff, sent, said):
    task = make_task()
    filled = {
        name: [each.format(task=task.id) for each in ([value] if isinstance(value, str) else value)]
        for name, value in sent.items()
    }
    assert said in client.post("/work-items/bulk", data=filled, follow_redirects=True).text
    assert again(task).status is WorkStatus.TODO


def test_a_member_changes_none_when_one_is_not_theirs(client, member):
    theirs, watched = make_task(responsible=member), make_task()
    db.session.add(WorkItemWatcher(item_id=watched.id, user_id=member.id))
    db.session.commit()
    answer = client.post(
        "/work-items/bulk", data={"ids": [theirs.id, watched.id], "status": "DONE"}, follow_redirects=True
    )
    assert "Nothing was changed." in answer.text
    assert again(theirs).status is WorkStatus.TODO
    assert 'name="responsible" aria-label="Person responsible for the selected items"' not in answer.text


# ── One item ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_item_shows_its_facts_its_parts_and_its_history_with_the_mails(client, staff):
    story = make_story(title="The hall", description="One\ntwo", responsible=make_user(name="Grace Hopper"))
    task = make_task(story=story, title="Count the chairs")
    client.post(f"/work-items/{story.id}/status", data={"status": "IN_REVIEW", "expected_status": "TODO"})
    page = client.get(f"/work-items/{story.id}").text
    for said in ("The hall", "One\ntwo", "Grace Hopper", story.parent.title, "Count the chairs", "0 of 1"):
        assert said in page
    assert f"Story #{story.id} is in review." in page
    assert f'href="/work-items/{task.id}"' in page
    assert f'href="/work-items/new?kind=task&amp;parent={story.id}"' in page
    assert "work-item-status" in page
    assert 'hx-trigger="live"' in page, "its mails are under way"
    assert "<html" not in client.get(f"/work-items/{story.id}/history").text


def test_a_status_change_from_a_stale_page_is_refused_and_changes_nothing(client, staff):
    task = make_task(status="BLOCKED")
    sent = {"status": "DONE", "expected_status": "TODO"}
    answer = client.post(f"/work-items/{task.id}/status", data=sent, follow_redirects=True)
    assert "is blocked now, no longer to do." in answer.text
    assert again(task).status is WorkStatus.BLOCKED


def test_a_watcher_may_only_comment(client, member):
    task = make_task()
    db.session.add(WorkItemWatcher(item_id=task.id, user_id=member.id))
    db.session.commit()
    page = client.get(f"/work-items/{task.id}").text
    assert "status-steps" not in page
    for path in ("edit", "delete", "status"):
        assert f'"/work-items/{task.id}/{path}"' not in page
    assert client.get(f"/work-items/{task.id}/edit").status_code == 403
    assert client.post(f"/work-items/{task.id}/edit", data=typed()).status_code == 403
    assert client.post(f"/work-items/{task.id}/status", data={"status": "DONE"}).status_code == 403
    assert client.post(f"/work-items/{task.id}/delete").status_code == 403
    assert client.get("/work-items/new").status_code == client.post("/work-items/new", data=typed()).status_code == 403
    assert client.post(f"/work-items/{task.id}/comments", data={"text": "I see."}).status_code == 303
    # Whoever stops watching it sees it no more.
    assert client.post(f"/work-items/{task.id}/unwatch").location == "/work-items/board"
    assert client.get(f"/work-items/{task.id}").status_code == 404


def test_watching_is_a_button_and_shown(client, staff):
    task = make_task()
    page = client.post(f"/work-items/{task.id}/watch", follow_redirects=True).text
    assert f'action="/work-items/{task.id}/unwatch"' in page
    assert db.session.get(WorkItemWatcher, (task.id, staff.id)) is not None
    page = client.post(f"/work-items/{task.id}/unwatch", follow_redirects=True).text
    assert f'action="/work-items/{task.id}/watch"' in page


# ── Making and changing ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "model"), [("epic", Epic), ("story", Story), ("task", Task)])
def test_staff_make_an_item_of_each_kind(client, staff, kind, model):
    parent = {"story": make_epic, "task": make_story}.get(kind, lambda: None)()
    person = make_user()
    sent = typed(description="a\r\nb", priority="HIGH", due_date="2031-02-03", responsible_id=str(person.id))
    sent |= {"reporter_id": str(staff.id)} | ({"parent_id": str(parent.id)} if parent else {})
    page = client.get(f"/work-items/new?kind={kind}" + (f"&parent={parent.id}" if parent else "")).text
    assert not parent or f'<option selected value="{parent.id}">' in page
    answer = client.post(f"/work-items/new?kind={kind}", data=sent)
    made = db.session.scalars(sa.select(model).where(model.title == "Tune the piano")).one()
    assert (answer.status_code, answer.location) == (303, f"/work-items/{made.id}")
    assert (made.description, made.priority, str(made.due_date)) == ("a\nb", "HIGH", "2031-02-03")
    assert (made.responsible_id, made.reporter_id) == (person.id, staff.id)
    assert made.parent_id == (parent.id if parent else None)
    assert db.session.scalar(sa.select(sa.func.count()).select_from(EmailMessage)) == 0


WRONG = (
    ({"title": ""}, "Enter a title."),
    ({"title": "   "}, "Enter a title."),
    ({"title": "x" * 201}, "longer than 200"),
    ({"title": "a\x00b"}, "Control characters are not allowed."),
    ({"description": "a\x1bb"}, "Control characters are not allowed."),
    ({"description": "x" * 10_001}, "longer than 10000"),
    ({"parent_id": ""}, "Select one."),
    ({"parent_id": "99999"}, "Not a valid choice"),
    ({"parent_id": "x"}, "Invalid Choice"),
    ({"priority": "SOME"}, "Not a valid choice"),
    ({"due_date": "soon"}, "Not a valid date"),
    ({"due_date": "1831-01-01"}, "Choose a day before 2100."),
    ({"responsible_id": "99999"}, "Not a valid choice"),
)


def test_errors_are_shown_beside_their_fields(client, staff):
    right = typed(parent_id=str(make_story().id), reporter_id=str(staff.id))
    for values, said in WRONG:
        answer = client.post("/work-items/new?kind=task", data=right | values)
        assert answer.status_code == 422, values
        assert said in answer.text, values
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Task)) == 0


def test_an_edit_keeps_what_the_form_cannot_offer_any_more(client, staff):
    gone = make_user(name="Gone Away")
    epic = make_epic()
    story = make_story(epic=epic, responsible=gone, reporter=staff, title="Old")
    gone.active, epic.status = False, WorkStatus.DONE
    db.session.commit()
    page = client.get(f"/work-items/{story.id}/edit").text
    assert f'<option selected value="{gone.id}">' in page
    assert f'<option selected value="{epic.id}">' in page
    sent = typed(title="New", parent_id=str(epic.id), responsible_id=str(gone.id), reporter_id=str(staff.id))
    answer = client.post(f"/work-items/{story.id}/edit", data=sent, follow_redirects=True)
    assert "Saved." in answer.text
    assert (again(story).title, story.responsible_id, story.parent_id) == ("New", gone.id, epic.id)
    assert "title: Old → New" in answer.text


def test_a_member_edits_their_items_and_cannot_assign_them(client, member):
    task, other = make_task(responsible=member), make_user()
    page = client.get(f"/work-items/{task.id}/edit").text
    assert 'name="title"' in page
    for name in ("parent_id", "responsible_id", "reporter_id"):
        assert f'name="{name}"' not in page
    client.post(f"/work-items/{task.id}/edit", data=typed(responsible_id=str(other.id)))
    assert (again(task).title, task.responsible_id) == ("Tune the piano", member.id)


def test_an_item_without_parts_is_deleted_after_a_question(client, staff):
    task = make_task()
    assert f"Delete Task #{task.id}?" in client.get(f"/work-items/{task.id}").text
    assert client.get(f"/work-items/{task.id}/delete").status_code == 405
    answer = client.post(f"/work-items/{task.id}/delete")
    assert (answer.status_code, answer.location) == (303, f"/work-items/{task.parent_id}")
    assert client.get(f"/work-items/{task.id}").status_code == 404


def test_deleting_an_epic_with_stories_asks_what_becomes_of_them(client, staff):
    epic, heir = make_epic(), make_epic(title="Another epic")
    stories = [make_story(epic=epic) for _ in range(2)]
    ids = [heir.id, make_task(story=stories[0]).id, *(story.id for story in stories)]
    page = client.get(f"/work-items/{epic.id}").text
    assert "It has 2 stories and 1 task." in page
    assert f'<option value="{heir.id}">' in page
    answer = client.post(f"/work-items/{epic.id}/delete", follow_redirects=True)
    assert "delete them too, or move them." in answer.text
    assert "takes the id" not in answer.text
    client.post(f"/work-items/{epic.id}/delete", data={"parts": "move", "to_id": str(heir.id)})
    assert [again(story).parent_id for story in stories] == [heir.id, heir.id]
    client.post(f"/work-items/{heir.id}/delete", data={"parts": "delete"})
    assert db.session.scalars(sa.select(WorkItem.id).where(WorkItem.id.in_(ids))).all() == []


# ── Comments ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_comment_is_shown_with_lines_and_mentions_and_mails_the_mentioned(client, staff):
    task, named = make_task(), make_user()
    text = f"@{named.username} look:\r\n<b>bold</b> & co@example.org"
    answer = client.post(f"/work-items/{task.id}/comments", data={"text": text})
    said = db.session.scalars(sa.select(WorkItemComment)).one()
    assert answer.location == f"/work-items/{task.id}#comment-{said.id}"
    page = client.get(f"/work-items/{task.id}").text
    shown = f'<strong class="mention">@{named.username}</strong> look:\n&lt;b&gt;bold&lt;/b&gt; &amp; co@example.org'
    assert shown in page
    mail = db.session.scalars(sa.select(EmailMessage)).one()
    assert (mail.kind, mail.recipients) == ("work-item-mention", [named.email])


def test_an_invalid_comment_is_kept_in_its_field_with_the_error(client, staff):
    task = make_task()
    wrong = {
        "  ": "Enter a comment.",
        "a\x00b": "Control characters are not allowed.",
        "x" * 5_001: "longer than 5000",
        " ".join(f"@user{n:03}" for n in range(21)): "Mention at most 20 people.",
    }
    for text, said in wrong.items():
        answer = client.post(f"/work-items/{task.id}/comments", data={"text": text})
        assert answer.status_code == 422, said
        assert said in answer.text
        assert 'id="comment-' not in answer.text
    assert db.session.scalar(sa.select(sa.func.count()).select_from(WorkItemComment)) == 0


def test_one_changes_ones_own_words_and_staff_remove_others(app, client, member):
    task = make_task(responsible=member)
    client.post(f"/work-items/{task.id}/comments", data={"text": "Frist"})
    said = db.session.scalars(sa.select(WorkItemComment)).one()
    path = f"/work-items/comments/{said.id}"
    staff = log_in(app.test_client(), make_user(Role.STAFF))
    assert f'href="{path}/edit"' not in staff.get(f"/work-items/{task.id}").text
    assert staff.post(f"{path}/edit", data={"text": "Theirs"}).status_code == 403
    assert f'href="{path}/edit"' in client.get(f"/work-items/{task.id}").text
    assert "Frist" in client.get(f"{path}/edit").text
    assert client.post(f"{path}/edit", data={"text": ""}).status_code == 422
    assert client.post(f"{path}/edit", data={"text": "First"}).location == f"/work-items/{task.id}#comment-{said.id}"
    page = client.get(f"/work-items/{task.id}").text
    assert "First" in page
    assert "· edited" in page
    staff_said = staff.post(f"/work-items/{task.id}/comments", data={"text": "Second"})
    assert client.post(f"/work-items/comments/{staff_said.location.rpartition('-')[2]}/delete").status_code == 403
    assert staff.post(f"{path}/delete").status_code == 303
    assert client.post(f"{path}/edit", data={"text": "Gone"}).status_code == 404


# ── What holds for all of them ───────────────────────────────────────────────────────────────────────────────────


def test_what_is_typed_is_text_on_every_page(client, staff):
    staff.name = HOSTILE
    epic = make_epic(title=HOSTILE, description=HOSTILE, responsible=staff, reporter=staff)
    story = make_story(title=HOSTILE, epic=epic, responsible=staff)
    client.post(f"/work-items/{story.id}/comments", data={"text": f"@staff {HOSTILE}"})
    client.post(f"/work-items/{story.id}/edit", data=typed(title=f"{HOSTILE} again", parent_id=str(epic.id)))
    comment = db.session.scalars(sa.select(WorkItemComment.id)).one()
    paths = (
        *(
            "/work-items/board",
            "/work-items/board?kind=epic",
            "/work-items",
            "/work-items/new?kind=story",
            f"/work-items/{epic.id}",
        ),
        *(
            f"/work-items/{story.id}",
            f"/work-items/{story.id}/edit",
            f"/work-items/comments/{comment}/edit",
            "/work-items?text=%3Cscript%3E",
        ),
    )
    for path in paths:
        page = client.get(path).text
        assert "<script>" not in page, path
        assert "&lt;script&gt;" in page, path


FORMS = (
    *(
        "/work-items/bulk",
        "/work-items/new",
        "/work-items/{id}/edit",
        "/work-items/{id}/status",
        "/work-items/{id}/move",
        "/work-items/{id}/delete",
    ),
    *(
        "/work-items/{id}/watch",
        "/work-items/{id}/unwatch",
        "/work-items/{id}/comments",
        "/work-items/comments/{comment}/edit",
    ),
    "/work-items/comments/{comment}/delete",
)


def test_no_form_is_taken_without_its_token(app, client, staff):
    task = make_task()
    said = WorkItemComment(item=task, author=staff, text="Words", school_id=task.school_id)
    db.session.add(said)
    db.session.commit()
    sent = typed(ids=str(task.id), status="DONE", text="Other words", parts="delete", parent_id=str(task.parent_id))
    app.config["WTF_CSRF_ENABLED"] = True
    for path in FORMS:
        answer = client.post(path.format(id=task.id, comment=said.id), data=sent)
        assert answer.status_code in (400, 422), path
    db.session.expire_all()
    assert (again(task).status, db.session.get(WorkItemComment, said.id).text) == ("TODO", "Words")
    assert task.title != sent["title"]
    assert db.session.scalar(sa.select(sa.func.count()).select_from(WorkItemWatcher)) == 0


def test_of_another_school_there_is_nothing(client, staff):
    stranger = make_user(school_id=make_school().id)
    story = make_story(epic=make_epic(reporter=stranger), reporter=stranger)
    theirs = make_task(story=story, reporter=stranger)
    assert client.get(f"/work-items/{theirs.id}").status_code == 404
    assert cards(client.get("/work-items/board").text)["TODO"] == rows(client.get("/work-items").text) == []
    epic = make_epic()
    page = client.get("/work-items/new?kind=epic").text
    assert stranger.username not in page
    sent = typed(responsible_id=str(stranger.id), reporter_id=str(staff.id))
    assert client.post(f"/work-items/{epic.id}/edit", data=sent).status_code == 422


def test_an_empty_board_says_what_to_do(client, staff):
    page = client.get("/work-items/board").text
    assert "No items to do." in page
    assert "Start with an epic." in client.get("/work-items").text


def test_the_overview_shows_what_one_is_to_see_to_what_is_due_first_on_top(client, staff):
    later = make_task(title="No day", responsible=staff)
    first = make_task(title="Soon", responsible=staff, due_date=date_today() - timedelta(days=1))
    make_task(title="Over", responsible=staff, status="DONE")
    make_task(title="Anothers")
    panel = client.get("/").text.partition('id="work-title"')[2].partition("</section>")[0]
    assert re.findall(r'href="/work-items/(\d+)"', panel) == [str(first.id), str(later.id)]
    assert "Overdue since" in panel


def test_the_navigation_leads_to_the_board(client, member):
    page = client.get("/work-items").text
    assert '<a class="nav-item-link" href="/work-items/board" aria-current="page">' in page
    assert "No work items" in page
