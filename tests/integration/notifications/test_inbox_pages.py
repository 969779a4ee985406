"""The inbox of a user, and the bell on every page."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.notifications import NotificationDelivery, Targets
from tests.notification_factories import sent
from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ada(app, session) -> Any:
    return make_user(name="Ada Byron")


@pytest.fixture
def pages(client, ada) -> Any:
    """The client of a member."""
    return log_in(client, ada)


def deliver(user: Any, work: Any, **values: Any) -> None:
    sent(Targets(users=(user.id,)), channels=("in_app",), **values)
    work()


def bell_of(html: str) -> str:
    found = re.search(r'<a class="bell".*?</a>', html, re.DOTALL)
    assert found
    return found[0]


def test_the_bell_counts_what_is_unread_until_it_is_marked_as_read(session, pages, ada, work):
    assert 'aria-label="Notifications"' in bell_of(pages.get("/inbox").text)
    assert "bell-count" not in bell_of(pages.get("/inbox").text)
    deliver(ada, work, title="Snow <b>day</b>", body="One.\n\n<i>Two</i> https://school.example")
    deliver(ada, work, title="Invoice")
    listed = pages.get("/inbox").text
    assert 'aria-label="2 unread notifications"' in bell_of(listed)
    assert "Snow &lt;b&gt;day&lt;/b&gt;" in listed
    assert listed.index("Invoice") < listed.index("Snow")
    assert listed.count("is-unread") == 2
    snow = session.scalars(sa.select(NotificationDelivery).order_by(NotificationDelivery.id)).first()
    shown = pages.get(f"/inbox/{snow.id}").text
    assert "<p>One.</p>" in shown
    assert "&lt;i&gt;Two&lt;/i&gt;" in shown
    assert '<a href="https://school.example" rel="nofollow noopener">' in shown
    assert 'aria-label="2 unread notifications"' in bell_of(shown)
    session.refresh(snow)
    assert snow.read_at is None
    path = f"/inbox/{snow.id}/read"
    assert f'action="{path}"' in shown
    marked = pages.post(path)
    assert (marked.status_code, marked.location) == (303, f"/inbox/{snow.id}")
    shown = pages.get(marked.location).text
    assert "Mark as read" not in shown
    assert 'aria-label="1 unread notification"' in bell_of(shown)
    session.refresh(snow)
    first_read_at = snow.read_at
    by_script = pages.post(path, headers={"HX-Request": "true"})
    assert (by_script.status_code, by_script.data, by_script.headers["HX-Trigger"]) == (200, b"", "read")
    session.refresh(snow)
    assert snow.read_at == first_read_at
    assert pages.get("/inbox").text.count("is-unread") == 1


def test_all_are_marked_read(session, pages, ada, work):
    for title in ("Snow day", "Invoice"):
        deliver(ada, work, title=title)
    assert "2 marked as read." in pages.post("/inbox/read", follow_redirects=True).text
    listed = pages.get("/inbox").text
    assert "is-unread" not in listed
    assert "Mark all read" not in listed


def test_the_bell_is_sent_again_only_when_it_has_changed(session, pages, ada, work):
    first = pages.get("/inbox/bell")
    seen = {"If-None-Match": first.headers["ETag"]}
    again = pages.get("/inbox/bell", headers=seen)
    assert (again.status_code, again.data) == (304, b"")
    deliver(ada, work)
    assert 'aria-label="1 unread notification"' in pages.get("/inbox/bell", headers=seen).text


def test_after_the_session_the_bell_changes_nothing(client, session):
    answer = client.get("/inbox/bell", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Reswap"], answer.data) == (200, "none", b"")
    assert "HX-Redirect" not in answer.headers


def test_the_inbox_of_another_person_is_not_found(app, session, pages, ada, work):
    ben = make_user()
    deliver(ben, work, title="For Ben")
    (delivery,) = session.scalars(sa.select(NotificationDelivery))
    assert "For Ben" not in pages.get("/inbox").text
    assert pages.get(f"/inbox/{delivery.id}").status_code == 404
    assert pages.post(f"/inbox/{delivery.id}/read").status_code == 404
    # Also for those who see its deliveries.
    admin = log_in(app.test_client(), make_user(Role.ADMIN))
    assert admin.get(f"/inbox/{delivery.id}").status_code == 404
    pages.post("/inbox/read")
    session.expire_all()
    assert session.get(NotificationDelivery, delivery.id).read_at is None


def test_long_inboxes_have_pages(session, pages, ada, work):
    for number in range(26):
        sent(Targets(users=(ada.id,)), channels=("in_app",), title=f"Number {number}.")
    work()
    listed = pages.get("/inbox").text
    assert listed.count("note-item") == 25
    older = re.search(r'rel="next" href="([^"]+)"', listed)
    assert older
    assert pages.get(older[1]).text.count("note-item") == 1
