"""The main path, from `make run` to the customer's mail."""

from __future__ import annotations

import html
import re
import subprocess
from typing import Any

import pytest

from app.demo.commands import DEMO_PASSWORD
from tests.acceptance.conftest import Browser, Stack, picture
from tests.servers import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("stack")]


def log_in(browser: Browser, user: str) -> str:
    return browser.post("/login", browser.get("/login"), login=f"{user}@example.org", password=DEMO_PASSWORD)


def first_pending(browser: Browser) -> str:
    found = re.search(r'href="(/reservations/\d+)"', browser.get("/reservations/?status=pending"))
    assert found, "the demo has pending reservations"
    return found[1]


def test_staff_confirm_a_reservation_and_read_the_customers_mail_in_the_inbox(stack: Stack, browser: Browser):
    log_in(browser, "staff")
    path = first_pending(browser)
    number = path.rpartition("/")[2]
    page = browser.post(f"{path}/status", browser.get(path), status="confirmed")
    assert f"Reservation #{number} is confirmed" in html.unescape(page)
    subject = f"Reservation #{number} confirmed"
    wait_until(lambda: subject in browser.get("/dev/inbox"), seconds=30, every=0.2)
    message = re.search(
        rf'href="(/dev/inbox/[^"?]+)[^"]*"(?:(?!</a>).)*{subject}', browser.get("/dev/inbox"), re.DOTALL
    )
    assert message, stack.output()
    source = browser.get(f"{message[1]}?part=source")
    assert "multipart/alternative" in source
    wait_until(lambda: "badge-mark" in browser.get(path) and "sent" in browser.get(f"{path}/history"), seconds=30)


def test_every_part_of_the_stack_is_well(stack: Stack):
    command = [stack.folder / ".venv/bin/flask", "--app", "wsgi", "doctor"]
    examinations: list[subprocess.CompletedProcess[bytes]] = []

    def is_well() -> bool:
        examinations.append(subprocess.run(command, cwd=stack.folder, capture_output=True, check=False))
        return examinations[-1].returncode == 0

    # `make run` says so when the web answers; workers and scheduler send their first heartbeats a moment later.
    wait_until(is_well, seconds=60, every=0.5)
    assert b"BAD" not in examinations[-1].stdout


@pytest.mark.browser
def test_the_same_in_a_browser_and_the_page_follows_by_itself(stack: Stack, page: Any):
    page.goto(f"{stack.url}/login")
    page.get_by_label("Username or email").fill("staff@example.org")
    page.get_by_label("Password", exact=True).fill(DEMO_PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{stack.url}/reservations/?status=pending")
    page.locator("tbody a.row-link").first.click()
    page.get_by_role("button", name="Confirm").first.click()
    # No reload: the history refreshes itself until its mail is sent.
    page.locator(".timeline .effect", has_text="reservation-status").get_by_text("sent").wait_for(timeout=30_000)
    picture(page, "reservation")
    page.goto(f"{stack.url}/dev/inbox")
    page.locator("a", has_text="confirmed").first.click()
    frame = page.frame_locator("iframe").first
    frame.get_by_text("confirmed").first.wait_for(timeout=10_000)
    page.goto(f"{stack.url}/jobs/")
    page.get_by_text("mail.deliver").first.wait_for()
    picture(page, "jobs")
