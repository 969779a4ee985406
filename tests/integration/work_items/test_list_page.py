"""The list of work items: filters, pages, changes of many."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.work_items import WorkItemWatcher, WorkStatus
from flask_belfry.core.presentation import date_today
from flask_belfry.db import db
from tests.reservation_factories import make_user
from tests.work_item_factories import make_epic, make_task
from tests.work_item_pages import again, rows

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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


def test_an_invalid_filter_is_ignored(client, staff):
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
