"""The routes of work items, and what another school has of them."""

from __future__ import annotations

from collections.abc import Mapping

from app.accounts import User
from app.work_items import WorkItemComment
from flask_belfry.db import db
from tests.tenancy import STAFF, USER, Route, many, one
from tests.work_item_factories import make_epic, make_story, make_task

WORK = "/work-items/{task}"
ITEM_FORM = {"title": "Ours now", "priority": "LOW"}


def routes_of_items(kind: str, plural: str, part_of: Mapping[str, str]) -> dict[tuple[str, str], Route]:
    """The endpoints of one kind of work items; all kinds have the same."""
    one_of, listed = f"/api/v1/{plural}/{{{kind}}}", f"/api/v1/{plural}"
    made_of = Route(STAFF, (listed,), {"title": "Ours", **part_of}, 422) if part_of else Route(STAFF)
    found = {
        ("list_items", "GET"): many(USER, f"{listed}?limit=100", f"{listed}?text={{name}}"),
        ("create_item", "POST"): made_of,
        ("change_items", "POST"): one(
            USER, f"{listed}/bulk", ids=[f"{{{kind}}}"], changes={"status": "DONE", "due_date": None}
        ),
        ("get_item", "GET"): one(USER, one_of),
        ("change_item", "PATCH"): one(USER, one_of, title="Ours now", status="DONE"),
        ("delete_item", "DELETE"): one(USER, f"{one_of}?parts=delete"),
        ("list_comments", "GET"): one(USER, f"{one_of}/comments"),
        ("comment", "POST"): one(USER, f"{one_of}/comments", text="Ours now"),
        ("watch", "PUT"): one(USER, f"{one_of}/watch"),
        ("unwatch", "DELETE"): one(USER, f"{one_of}/watch"),
    }
    return {(f"api_{plural}.{name}", method): route for (name, method), route in found.items()}


ROUTES: dict[tuple[str, str], Route] = {
    ("work.board", "GET"): many(
        USER,
        "/work-items/board",
        "/work-items/board?within={epic}",
        "/work-items/board?responsible={customer}",
        "/work-items/board?kind=epic",
    ),
    ("work.columns", "GET"): many(USER, "/work-items/board/columns", "/work-items/board/columns?text={name}"),
    ("work.list_", "GET"): many(
        USER, "/work-items", "/work-items?text={name}", "/work-items?text=%23{task}", "/work-items?within={story}"
    ),
    ("work.change_many", "POST"): Route(USER, ("/work-items/bulk",), {"ids": "{task}", "status": "DONE"}, 303),
    ("work_items.create", "GET"): many(STAFF, "/work-items/new", "/work-items/new?kind=story&parent={epic}"),
    ("work_items.create", "POST"): Route(STAFF, ("/work-items/new",), {**ITEM_FORM, "parent_id": "{story}"}, 422),
    ("work_items.detail", "GET"): one(USER, WORK),
    ("work_items.history", "GET"): one(USER, f"{WORK}/history"),
    ("work_items.edit", "GET"): one(USER, f"{WORK}/edit"),
    ("work_items.edit", "POST"): one(USER, f"{WORK}/edit", **ITEM_FORM),
    ("work_items.set_status", "POST"): one(USER, f"{WORK}/status", status="DONE"),
    # The board again, which says that there is no such card.
    ("work_items.move", "POST"): Route(USER, (f"{WORK}/move",), {"status": "DONE"}, 303),
    ("work_items.delete", "POST"): one(USER, f"{WORK}/delete"),
    ("work_items.watch", "POST"): one(USER, f"{WORK}/watch"),
    ("work_items.unwatch", "POST"): one(USER, f"{WORK}/unwatch"),
    ("work_items.comment", "POST"): one(USER, f"{WORK}/comments", text="Ours now"),
    ("work_items.edit_comment", "GET"): one(USER, "/work-items/comments/{comment}/edit"),
    ("work_items.edit_comment", "POST"): one(USER, "/work-items/comments/{comment}/edit", text="Ours now"),
    ("work_items.delete_comment", "POST"): one(USER, "/work-items/comments/{comment}/delete"),
    **routes_of_items("epic", "epics", {}),
    **routes_of_items("story", "stories", {"epic_id": "{epic}"}),
    **routes_of_items("task", "tasks", {"story_id": "{story}"}),
}

# Statements that do not ask for a school: what is kept of oneself, by one's own id.
UNSCOPED = (
    r"SELECT .* FROM work_items WHERE work_items\.(responsible|reporter)_id = \? ORDER BY work_items\.id$",
    r"SELECT .* FROM work_items WHERE work_items\.id IN \(SELECT .* WHERE work_item_watchers\.user_id = \?\) ORDER BY",
    r"SELECT .* FROM work_item_comments WHERE work_item_comments\.author_id = \? ORDER BY",
)


def make_rows(user: User) -> dict[str, int]:
    """A task of a user, its parents, and its comments."""
    people = {"reporter": user, "responsible": user}
    epic = make_epic(title="Zarathustras epic", **people)
    story = make_story(title="Zarathustras story", epic=epic, **people)
    task = make_task(title="Zarathustras task", story=story, **people)
    said = WorkItemComment(item=task, author=user, text="Zarathustras words", school_id=task.school_id)
    db.session.add(said)
    db.session.commit()
    return {"epic": epic.id, "story": story.id, "task": task.id, "comment": said.id}
