"""The night call: the mail server is down, and an operator finds what is wrong, why, and the button that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.demo.commands import DEMO_PASSWORD
from tests.acceptance.conftest import Browser, Stack, log_in, picture, press, running_stack
from tests.smtp import SmtpServer

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("night call")]

RESERVATIONS = 12
PATIENCE_MS = 40_000


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A mail server that is down: its port is known, and refuses connections."""
    server = SmtpServer().start()
    server.stop()
    yield server
    if not server.stopped.is_set():
        server.stop()


@pytest.fixture
def night(server: SmtpServer) -> Iterator[Stack]:
    """A stack whose mails go to that server, and fail finally at the second attempt."""
    with running_stack(**server.settings, MAIL_RETRY_DELAYS_SECONDS="1") as stack:
        yield stack


def make_reservations(stack: Stack) -> None:
    """Each is mailed to the admin of the school."""
    user = Browser(stack.url)
    user.post("/login", user.get("/login"), login="staff", password=DEMO_PASSWORD)
    form = user.get("/reservations/new")
    for hour in range(RESERVATIONS):
        user.post(
            "/reservations/new", form, start_time=f"2031-02-03T{hour + 8:02}:00", duration_minutes="60", party_size="1"
        )


def retry(page: Any) -> Any:
    """Retry the jobs of a group by the keyboard: a canary first, as the form suggests; return the page's operation."""
    for field in ("Retry some first", "Jobs per second"):
        assert page.get_by_label(field).input_value() == "5"
    press(page, "Retry")
    page.locator("#operation").wait_for()
    return page.locator("#operation")


def test_the_night_call(server: SmtpServer, night: Stack, page: Any):
    make_reservations(night)
    admin = log_in(night, page, "admin")
    admin.set_default_timeout(PATIENCE_MS)

    # What is wrong.
    admin.goto(f"{night.url}/operations")
    problem = admin.locator("#problem-jobs")
    problem.get_by_text(re.compile(r"1[2-9] jobs failed with ServerUnreachableError since \d\d:\d\d")).wait_for()
    problem.get_by_text("Connection refused").wait_for()
    admin.locator("#problem-smtp", has_text="Connection refused").wait_for()
    picture(admin, "night-call")
    press(admin, "Show jobs")

    # Why.
    admin.wait_for_url("**/jobs/failures**")
    if not admin.locator("#failure").count():  # the mails about these failures failed too: a group of the system
        admin.locator("tbody tr", has_text="School").locator("a.row-link").click()
    admin.locator("#failure .error-box", has_text="Connection refused").wait_for()
    assert "flask_belfry/mail/transport.py:Connection.configure_host" in admin.locator(".page-subtitle").inner_text()
    assert "ConnectionRefusedError" in admin.get_by_label("Traceback of the latest failure").inner_text()
    # No mail waits for its second attempt.
    admin.locator("#failure", has_text=re.compile(r"Failed\s*1[2-9]\s*To be retried\s*0")).wait_for()
    group = admin.url

    # Too early: the canary meets the fault unchanged, and the operation stops by itself.
    operation = retry(admin)
    operation.get_by_text(re.compile(r"[1-5] of the first 5 jobs failed again: ServerUnreachableError\.")).wait_for()
    operation.locator(".state-failed", has_text="stopped").wait_for()
    assert re.search(r"\b5 of 1[2-9] jobs, 5 retried", operation.inner_text())
    assert server.received == []

    # The button that mends it.
    server.start()
    admin.goto(group)
    operation = retry(admin)
    operation.get_by_text("none has failed again").wait_for()
    assert re.search(r"\b(\d+) of \1 jobs, \1 retried", operation.inner_text())
    press(admin, "Show the group of failures")
    admin.get_by_text("No job of this group is failed or waits for another attempt.").wait_for()
    press(admin, "Resolve")
    admin.locator(".state-completed", has_text="resolved").wait_for()

    # Mails about the failures may have failed too, and wait in groups of the system or of the school.
    open_groups = f"{night.url}/jobs/failures"
    admin.goto(open_groups)
    while admin.locator(".figure-bad").count():
        admin.locator("tr:has(.figure-bad) a.row-link").first.click()
        retry(admin).get_by_text("none has failed again").wait_for()
        admin.get_by_role("link", name="Show the group of failures").click()
        admin.get_by_role("button", name="Resolve").click()
        admin.locator(".state-completed", has_text="resolved").wait_for()
        admin.goto(open_groups)

    # All is well, and each mail has arrived once.
    admin.goto(f"{night.url}/operations")
    admin.get_by_role("heading", name="No problems").wait_for()
    admin.goto(f"{night.url}/mails?q=kind:reservation-new")
    assert admin.locator("tbody .badge-state").all_inner_texts() == ["sent"] * RESERVATIONS
    received = server.received
    subjects = [mail.message["Subject"] for mail in received if "New reservation" in mail.message["Subject"]]
    assert len(set(subjects)) == len(subjects) == RESERVATIONS
    assert len({mail.message_id for mail in received}) == len(received)
