"""What holds for all pages of work items."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.work_items import WorkItemComment, WorkItemWatcher
from flask_belfry.core.presentation import date_today
from flask_belfry.db import db
from tests.reservation_factories import make_school, make_user
from tests.work_item_factories import make_epic, make_story, make_task
from tests.work_item_pages import again, cards, rows, typed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HOSTILE = '<script>alert("x")</script>'


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


def test_the_overview_shows_what_one_is_to_see_to_what_is_due_first_on_top(client, staff):
    later = make_task(title="No day", responsible=staff)
    first = make_task(title="Soon", responsible=staff, due_date=date_today() - timedelta(days=1))
    make_task(title="Over", responsible=staff, status="DONE")
    make_task(title="Anothers")
    panel = client.get("/").text.partition('id="work-title"')[2].partition("</section>")[0]
    assert re.findall(r'href="/work-items/(\d+)"', panel) == [str(first.id), str(later.id)]
    assert "Overdue since" in panel
