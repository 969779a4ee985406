"""The pages of one work item: facts, forms, deletion, comments."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.work_items import Epic, Story, Task, WorkItem, WorkItemComment, WorkItemWatcher, WorkStatus
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage
from tests.reservation_factories import log_in, make_user
from tests.work_item_factories import make_epic, make_story, make_task
from tests.work_item_pages import again, typed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
    # A user who stops watching it sees it no more.
    assert client.post(f"/work-items/{task.id}/unwatch").location == "/work-items/board"
    assert client.get(f"/work-items/{task.id}").status_code == 404


def test_watching_is_a_button_and_shown(client, staff):
    task = make_task()
    page = client.post(f"/work-items/{task.id}/watch", follow_redirects=True).text
    assert f'action="/work-items/{task.id}/unwatch"' in page
    assert db.session.get(WorkItemWatcher, (task.id, staff.id)) is not None
    page = client.post(f"/work-items/{task.id}/unwatch", follow_redirects=True).text
    assert f'action="/work-items/{task.id}/watch"' in page


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
