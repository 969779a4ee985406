"""/api/v1/epics, /stories and /tasks, on both databases."""

from __future__ import annotations

from datetime import date

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.work_items import Story, WorkItem
from tests.ledger import mails
from tests.reservation_factories import bearer, make_school, make_user
from tests.work_item_factories import make_epic, make_story, make_task

API = "/api/v1"


class Caller:
    """A client with the token of a user."""

    def __init__(self, client, user) -> None:
        self.client, self.user, self.headers = client, user, bearer(user)

    def __call__(self, method: str, path: str, *, headers=None, **options):
        return self.client.open(f"{API}{path}", method=method, headers={**self.headers, **(headers or {})}, **options)


@pytest.fixture
def staff(client):
    return Caller(client, make_user(Role.STAFF))


@pytest.fixture
def member(client):
    return Caller(client, make_user())


def test_an_epic_its_stories_and_their_tasks_are_made_with_the_fields_of_their_kind(staff):
    owner = make_user(Role.STAFF)
    epic = staff("POST", "/epics", json={"title": "  The   concert ", "owner_id": owner.id, "due_date": "2031-05-01"})
    assert epic.status_code == 201
    assert epic.location == f"{API}/epics/{epic.json['id']}"
    assert {
        name: epic.json[name] for name in ("title", "status", "priority", "owner_id", "reporter_id", "due_date")
    } == {
        "title": "The concert",
        "status": "TODO",
        "priority": "MEDIUM",
        "owner_id": owner.id,
        "reporter_id": staff.user.id,
        "due_date": "2031-05-01",
    }
    story = staff("POST", "/stories", json={"title": "Rehearsals", "epic_id": epic.json["id"], "priority": "HIGH"})
    assert (story.status_code, story.json["epic_id"], story.json["assignee_id"]) == (201, epic.json["id"], None)
    task = staff("POST", "/tasks", json={"title": "Tune", "story_id": story.json["id"], "assignee_id": owner.id})
    assert (task.status_code, task.json["story_id"], task.json["assignee_id"]) == (201, story.json["id"], owner.id)
    assert staff("GET", f"/tasks/{task.json['id']}").json == task.json
    assert mails() == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no database is asked
@pytest.mark.parametrize(
    ("path", "fields", "wrong"),
    [
        ("/epics", {}, "title"),
        ("/epics", {"title": ""}, "title"),
        ("/epics", {"title": "   "}, "title"),
        ("/epics", {"title": "x" * 201}, "title"),
        ("/epics", {"title": "a\x00b"}, "title"),
        ("/epics", {"title": "x", "status": "done"}, "status"),
        ("/epics", {"title": "x", "priority": "URGENT"}, "priority"),
        ("/epics", {"title": "x", "owner_id": 999_999}, "owner_id"),
        ("/epics", {"title": "x", "assignee_id": 1}, "assignee_id"),
        ("/epics", {"title": "x", "reporter_id": 999_999}, "reporter_id"),
        ("/epics", {"title": "x", "due_date": "tomorrow"}, "due_date"),
        ("/epics", {"title": "x", "due_date": "9999-01-01"}, "due_date"),
        ("/epics", {"title": "x", "description": "y" * 10_001}, "description"),
        ("/epics", {"title": "x", "school_id": 2}, "school_id"),
        ("/stories", {"title": "x"}, "epic_id"),
        ("/stories", {"title": "x", "epic_id": 999_999}, "epic_id"),
        ("/tasks", {"title": "x", "story_id": None}, "story_id"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_made(staff, session, path, fields, wrong):
    answer = staff("POST", path, json=fields)
    assert answer.status_code == 422, answer.text
    assert list(answer.json["errors"]) == [wrong]
    assert session.scalar(sa.select(sa.func.count()).select_from(WorkItem)) == 0


def test_a_story_cannot_be_part_of_a_task(staff):
    task = make_task()
    answer = staff("POST", "/stories", json={"title": "x", "epic_id": task.id})
    assert (answer.status_code, list(answer.json["errors"])) == (422, ["epic_id"])


def test_each_kind_is_found_under_its_own_path_only(staff):
    story = make_story()
    assert staff("GET", f"/stories/{story.id}").status_code == 200
    for kind in ("epics", "tasks"):
        assert staff("GET", f"/{kind}/{story.id}").status_code == 404
        assert staff("PATCH", f"/{kind}/{story.id}", json={"status": "DONE"}).status_code == 404
        assert staff("DELETE", f"/{kind}/{story.id}").status_code == 404


def test_a_patch_changes_all_of_it_or_nothing(staff, session):
    story = make_story(title="Rehearsals")
    bad = {"status": "DONE", "assignee_id": 999_999}
    assert staff("PATCH", f"/stories/{story.id}", json=bad).status_code == 422
    session.expire_all()
    assert (story.status, mails()) == ("TODO", [])
    good = {"status": "IN_PROGRESS", "title": "Choir", "description": "Tuesdays", "due_date": None, "priority": "LOW"}
    answer = staff("PATCH", f"/stories/{story.id}", json=good)
    assert answer.status_code == 200
    assert {name: answer.json[name] for name in good} == good
    assert len(mails("work-item-status")) == 1


def test_a_story_moves_to_another_epic(staff, session):
    story, other = make_story(), make_epic()
    assert staff("PATCH", f"/stories/{story.id}", json={"epic_id": other.id}).json["epic_id"] == other.id
    assert staff("PATCH", f"/stories/{story.id}", json={"epic_id": story.id}).status_code == 422
    assert staff("PATCH", f"/stories/{story.id}", json={"epic_id": None}).status_code == 422


def test_two_editors_do_not_overwrite_each_other(staff):
    epic = make_epic()
    seen = staff("GET", f"/epics/{epic.id}").headers["ETag"]
    assert staff("PATCH", f"/epics/{epic.id}", json={"title": "First"}, headers={"If-Match": seen}).status_code == 200
    assert staff("PATCH", f"/epics/{epic.id}", json={"title": "Second"}, headers={"If-Match": seen}).status_code == 412
    assert staff("DELETE", f"/epics/{epic.id}", headers={"If-Match": seen}).status_code == 412
    assert staff("GET", f"/epics/{epic.id}").json["title"] == "First"


def test_the_etag_of_a_change_of_status_is_that_of_the_next_look(staff):
    """What the hooks write beside the item does not change it."""
    epic = make_epic()
    changed = staff("PATCH", f"/epics/{epic.id}", json={"status": "DONE"})
    assert staff("GET", f"/epics/{epic.id}").headers["ETag"] == changed.headers["ETag"]


def test_lists_are_filtered_and_paged(staff):
    epic, person = make_epic(title="The concert"), make_user(Role.STAFF)
    stories = [make_story(epic=epic, responsible=person if number % 2 else None) for number in range(5)]
    make_story(title="Elsewhere", status="DONE", priority="CRITICAL", due_date=date(2030, 1, 1))
    found = staff("GET", f"/stories?epic_id={epic.id}&limit=3").json
    assert [item["id"] for item in found["items"]] == [story.id for story in reversed(stories[2:])]
    rest = staff("GET", f"/stories?epic_id={epic.id}&limit=3&cursor={found['next_cursor']}").json
    assert [item["id"] for item in rest["items"]] == [story.id for story in reversed(stories[:2])]
    assert rest["next_cursor"] is None
    for query, number in (
        (f"assignee_id={person.id}", 2),
        ("status=DONE", 1),
        ("priority=CRITICAL", 1),
        ("text=elsewh", 1),
        (f"text=%23{stories[0].id}", 1),
        ("due_before=2031-01-01", 0),
        ("status=BLOCKED", 0),
    ):
        assert len(staff("GET", f"/stories?{query}").json["items"]) == number, query
    assert len(staff("GET", "/epics?text=concert").json["items"]) == 1
    assert staff("GET", "/epics?epic_id=1").status_code == 422


def test_many_are_changed_together_or_none(staff, session):
    tasks = [make_task() for _ in range(3)]
    ids = [task.id for task in tasks]
    person = make_user(Role.STAFF)
    changes = {"status": "DONE", "assignee_id": person.id, "priority": "LOW", "due_date": "2031-01-01"}
    answer = staff("POST", "/tasks/bulk", json={"ids": [*ids, ids[0]], "changes": changes})
    assert (answer.status_code, answer.json) == (200, {"changed": 3})
    session.expire_all()
    assert {(task.status, task.responsible_id, task.priority) for task in tasks} == {("DONE", person.id, "LOW")}
    missing = staff("POST", "/tasks/bulk", json={"ids": [ids[0], 999_999], "changes": {"status": "TODO"}})
    assert (missing.status_code, missing.json["errors"]) == (404, {"ids": ["not found: #999999"]})
    of_another_kind = staff("POST", "/epics/bulk", json={"ids": ids, "changes": {"status": "TODO"}})
    assert of_another_kind.status_code == 404
    session.expire_all()
    assert {task.status for task in tasks} == {"DONE"}
    for body in ({"ids": [], "changes": {}}, {"ids": ids, "changes": {"title": "x"}}, {"ids": ["x"], "changes": {}}):
        assert staff("POST", "/tasks/bulk", json=body).status_code == 422


def test_members_see_and_move_what_they_are_part_of_and_no_more(client, member, session):
    mine = make_task(responsible=member.user)
    reported, watched, foreign = make_task(reporter=member.user), make_task(), make_task()
    assert member("PUT", f"/tasks/{watched.id}/watch").status_code == 404, "not theirs to see"
    staff = Caller(client, make_user(Role.STAFF))
    said = staff("POST", f"/tasks/{watched.id}/comments", json={"text": f"@{member.user.username} look"})
    assert said.status_code == 201
    listed = {item["id"] for item in member("GET", "/tasks").json["items"]}
    assert listed == {mine.id, reported.id, watched.id}
    assert member("GET", f"/tasks/{foreign.id}").status_code == 404
    assert member("PATCH", f"/tasks/{mine.id}", json={"status": "IN_PROGRESS"}).status_code == 200
    assert member("PATCH", f"/tasks/{reported.id}", json={"title": "Mine to say"}).status_code == 200
    assert member("PATCH", f"/tasks/{watched.id}", json={"status": "DONE"}).status_code == 403
    assert member("PATCH", f"/tasks/{mine.id}", json={"assignee_id": None}).status_code == 403
    assert member("PATCH", f"/tasks/{foreign.id}", json={"status": "DONE"}).status_code == 404
    bulk = {"ids": [mine.id, watched.id], "changes": {"status": "DONE"}}
    assert member("POST", "/tasks/bulk", json=bulk).status_code == 403
    session.expire_all()
    assert mine.status == "IN_PROGRESS"
    assert member("POST", "/epics", json={"title": "x"}).status_code == 403
    assert member("DELETE", f"/tasks/{mine.id}").status_code == 403


def test_another_schools_people_and_items_are_not_taken(client, session):
    here = Caller(client, make_user(Role.STAFF))
    other = make_school()
    stranger = make_user(Role.STAFF, school_id=other.id)
    their_epic = make_epic(reporter=stranger)
    assert their_epic.school_id == other.id
    assert here("POST", "/epics", json={"title": "x", "owner_id": stranger.id}).status_code == 422
    assert here("POST", "/stories", json={"title": "x", "epic_id": their_epic.id}).status_code == 422
    admin = Caller(client, make_user(Role.ADMIN))
    made = admin("POST", "/stories", json={"title": "x", "epic_id": their_epic.id, "assignee_id": stranger.id})
    assert made.status_code == 201
    assert session.get(Story, made.json["id"]).school_id == other.id
    moved = admin("PATCH", f"/stories/{made.json['id']}", json={"epic_id": make_epic().id})
    assert (moved.status_code, list(moved.json["errors"])) == (422, ["epic_id"])


def test_deleting_what_has_parts_asks_what_becomes_of_them(staff, session):
    epic, other = make_epic(), make_epic()
    story = make_story(epic=epic)
    task = make_task(story=story)
    ids = [other.id, story.id, task.id]
    asked = staff("DELETE", f"/epics/{epic.id}")
    assert (asked.status_code, list(asked.json["errors"])) == (409, ["parts"])
    assert "1 story" in asked.json["message"]
    for query in ("parts=move", f"parts=move&to_id={epic.id}", f"parts=move&to_id={story.id}", "parts=keep"):
        assert staff("DELETE", f"/epics/{epic.id}?{query}").status_code == 422, query
    assert staff("DELETE", f"/epics/{epic.id}?parts=move&to_id={other.id}").status_code == 204
    session.expire_all()
    assert session.get(Story, story.id).epic_id == other.id
    assert staff("DELETE", f"/epics/{other.id}?parts=delete").status_code == 204
    session.expire_all()
    kept = session.scalars(sa.select(WorkItem.id).where(WorkItem.id.in_(ids))).all()
    assert kept == []
    assert staff("DELETE", f"/tasks/{make_task().id}").status_code == 204


def test_comments_are_made_and_listed(staff):
    task = make_task()
    path = f"/tasks/{task.id}/comments"
    first = staff("POST", path, json={"text": "  Ready?\r\n "})
    assert (first.status_code, first.json["text"], first.json["author_id"]) == (201, "Ready?", staff.user.id)
    staff("POST", path, json={"text": "Yes."})
    assert [said["text"] for said in staff("GET", path).json["items"]] == ["Ready?", "Yes."]
    for text in ("", "   ", "x" * 5_001, "a\x00b"):
        assert staff("POST", path, json={"text": text}).status_code == 422
    assert staff("GET", "/tasks/999999/comments").status_code == 404


def test_watching_begins_and_ends(staff, session):
    task = make_task()
    for method in ("PUT", "PUT", "DELETE", "DELETE"):
        assert staff(method, f"/tasks/{task.id}/watch").status_code == 204
        task.status = "DONE" if task.status == "TODO" else "TODO"
    staff("PUT", f"/tasks/{task.id}/watch")
    task.status = "BLOCKED"
    session.commit()
    assert staff.user.email in {mail.recipients[0] for mail in mails("work-item-status")}
