"""The lists of the admin panel: search, filters, order, cost, export."""

from __future__ import annotations

import csv
import io
import re

import pytest
import sqlalchemy as sa

from app.accounts import User
from app.reservations import Resource
from flask_belfry.core.clock import utc_now
from tests.admin_panel import listed, views
from tests.reservation_factories import make_reservation, make_resource, make_school, make_user, tomorrow
from tests.work_item_factories import make_task

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_lists_are_searched_filtered_and_ordered(session, panel):
    one = make_task(title="Paint 100% of it", status="DONE", due_date=tomorrow().date())
    two = make_task(title="Sweep", priority="HIGH", description="paint too", responsible=make_user())
    url = "/admin/work_items/?"
    assert listed(panel, url + "kind=task") == [two.id, one.id]
    assert listed(panel, url + "kind=task&order=id") == [one.id, two.id]
    assert listed(panel, url + "text=PAINT") == [two.id, one.id]
    assert listed(panel, url + "text=100%25") == [one.id]
    assert listed(panel, url + f"text=%23{one.id}") == [one.id]
    assert listed(panel, url + "status=DONE&priority=MEDIUM") == [one.id]
    assert listed(panel, url + f"responsible_id={two.responsible_id}") == [two.id]
    assert listed(panel, url + f"due_date_from={tomorrow():%Y-%m-%d}") == [one.id]
    assert listed(panel, url + f"due_date_before={tomorrow():%Y-%m-%d}") == []
    everything = listed(panel, url)
    # An invalid value does not filter.
    for query in ("status=GONE", "responsible_id=x", "responsible_id=99999999999", "due_date_from=x", "order=title"):
        assert listed(panel, url + query) == everything
    assert panel.get(url + "cursor=nonsense").status_code == 422
    users = listed(panel, "/admin/users/?order=username_key")
    names = {id: key for id, key in session.execute(sa.select(User.id, User.username_key))}  # noqa: C416 - rows
    assert users == sorted(names, key=lambda id: names[id])
    assert listed(panel, "/admin/users/?active=no") == []
    assert panel.get(f"/admin/users/?created_at_from={utc_now():%Y-%m-%d}").text.count('name="rowid"') == len(names)


@sqlite
def test_a_list_costs_a_few_statements_and_never_counts_or_skips(session, panel, statements):
    for _ in range(30):
        make_reservation(resource=make_resource())
    statements.clear()
    first = panel.get("/admin/reservations/")
    of_first = list(statements)
    link = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert link
    statements.clear()
    second = panel.get(link[1].replace("&amp;", "&"))
    assert first.text.count('name="rowid"') == 25
    assert second.text.count('name="rowid"') == 5
    # The user, the page, the names of the customers, the resources and the schools, and the unread notifications.
    assert len(of_first) == len(statements) == 6, of_first
    of_list = [each for each in statements if "notification_deliveries" not in each]
    assert not [each for each in of_list if re.search(r"count\(|OFFSET \?\d*[1-9]", each, re.IGNORECASE)]


@sqlite
def test_every_order_is_answered_by_an_index_and_never_of_empty_values(app):
    for view in views(app):
        table = view.mapper.local_table
        leading = {next(iter(index.columns)).key for index in table.indexes}
        leading |= {column.key for column in table.columns if column.unique or column.primary_key}
        for name in view._sortable_columns:
            assert name in leading, (table.name, name)
            assert not table.columns[name].nullable, (table.name, name)


@sqlite
def test_an_export_has_all_rows_of_the_list_and_no_formulas(session, panel):
    school = make_school()
    values = ['=HYPERLINK("x")', "+1", "-1", "@SUM", "\tx", "plain, with comma"]
    for value in values:
        make_resource(name=value, school_id=school.id)
    session.execute(sa.insert(Resource), [{"name": f"Room {n}", "capacity": n + 1, "school_id": 1} for n in range(250)])
    session.commit()
    answer = panel.get("/admin/resources/export/csv/")
    assert answer.mimetype == "text/csv"
    assert "attachment" in answer.headers["Content-Disposition"]
    head, *rows = list(csv.reader(io.StringIO(answer.text)))
    assert head == ["id", "name", "capacity", "active", "school_id"]
    assert [int(row[0]) for row in rows] == list(range(256, 0, -1))
    assert {row[1] for row in rows[-6:]} == {f"'{value}" for value in values[:5]} | {values[5]}
    scoped = panel.get(f"/admin/resources/export/csv/?school_id={school.id}&order=id")
    assert [row[0] for row in csv.reader(io.StringIO(scoped.text))][1:] == [str(n) for n in range(1, 7)]
