"""A notification from the form to the reader: with a search, previews, live progress, the bell and the mail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flask_belfry.core.clock import utc_now
from tests.acceptance.conftest import Stack, log_in, picture

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]

REFRESH_BELL = "htmx.trigger(document.getElementById('bell'), 'live')"


def compose(stack: Stack, page: Any, title: str) -> None:
    """Open the form and fill it in, for the demo's member."""
    page.goto(f"{stack.url}/notifications/new")
    page.get_by_label("Title", exact=True).fill(title)
    page.get_by_label("Text", exact=True).fill("Dear Mia,\n\nthe choir sings on Friday at 15:00.")
    page.get_by_role("combobox", name="People").fill("mia")
    page.get_by_role("option", name="Mia Member").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_text("This reaches 1 person").wait_for()


def test_a_notification_is_written_sent_and_read(stack: Stack, open_page: Callable[..., Any]):
    staff, member = (log_in(stack, open_page(), name) for name in ("staff", "member"))
    bell = member.locator("#bell")
    unread = bell.locator(".bell-count")
    assert unread.count() == 0
    compose(stack, staff, "The choir sings")
    staff.locator("#audience", has_text="Mia Member").wait_for()
    staff.locator(".preview-mail", has_text="the choir sings on Friday at 15:00.").wait_for()
    staff.locator(".preview-push", has_text="The choir sings").wait_for()
    picture(staff, "notification")
    staff.get_by_role("button", name="Send notification").click()
    staff.locator(".badge-state", has_text="finished").wait_for(timeout=30_000)
    staff.get_by_role("link", name="1 delivered, in the app").wait_for()
    member.evaluate(REFRESH_BELL)
    unread.get_by_text("1", exact=True).wait_for()
    assert bell.get_attribute("aria-label") == "1 unread notification"
    bell.click()
    member.get_by_role("link", name="The choir sings").click()
    member.get_by_text("the choir sings on Friday at 15:00.").wait_for()
    unread.wait_for(state="detached")
    member.get_by_role("button", name="Mark as read").wait_for(state="detached")
    assert bell.get_attribute("aria-label") == "Notifications"
    member.reload()
    assert member.locator("#mark-read, .bell-count").count() == 0
    staff.goto(f"{stack.url}/dev/inbox")
    staff.locator("a", has_text="The choir sings").first.click()
    mail = staff.frame_locator("iframe.mail-frame")
    mail.get_by_text("the choir sings on Friday at 15:00.").wait_for()
    assert mail.get_by_role("link", name="Open the inbox").get_attribute("href") == f"{stack.url}/inbox"


def test_a_page_that_is_loaded_in_the_background_marks_nothing_as_read(stack: Stack, open_page: Callable[..., Any]):
    staff, member = (log_in(stack, open_page(), name) for name in ("staff", "member"))
    compose(stack, staff, "The choir rests")
    staff.get_by_role("button", name="Send notification").click()
    staff.locator(".badge-state", has_text="finished").wait_for(timeout=30_000)
    member.add_init_script("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    member.goto(f"{stack.url}/inbox")
    member.get_by_role("link", name="The choir rests").click()
    button = member.get_by_role("button", name="Mark as read")
    button.wait_for()
    member.wait_for_load_state("networkidle")
    assert button.count() == 1
    member.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    button.wait_for(state="detached")
    member.goto(f"{stack.url}/inbox")
    assert member.locator(".is-unread", has_text="The choir rests").count() == 0


def test_chips_are_removed_and_everyone_hides_the_other_targets(stack: Stack, page: Any):
    log_in(stack, page, "staff")
    compose(stack, page, "For Mia")
    page.get_by_role("button", name="Remove Mia Member").click()
    page.get_by_text("Select who gets it to see").wait_for()
    assert page.locator("#people").input_value() == ""
    page.get_by_label("Everyone at the school").check()
    page.get_by_role("combobox", name="People").wait_for(state="hidden")
    page.get_by_text("This reaches").wait_for()


def test_the_enter_key_does_not_send(stack: Stack, page: Any):
    log_in(stack, page, "staff")
    compose(stack, page, "Not yet")
    page.get_by_label("Title", exact=True).press("Enter")
    page.locator(".picked", has_text="Mia Member").wait_for()
    page.goto(f"{stack.url}/notifications")
    assert page.get_by_text("Not yet").count() == 0


def test_a_notification_is_scheduled_on_a_telephone(stack: Stack, open_page: Callable[..., Any]):
    page = log_in(stack, open_page(360, 740, color_scheme="dark"), "staff")
    compose(stack, page, "Next year")
    page.get_by_label("At a time").check()
    page.get_by_label("Time", exact=True).fill(f"{utc_now() + timedelta(days=30):%Y-%m-%dT10:00}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Schedule notification").click()
    page.get_by_role("link", name="Next year").click()
    page.locator(".picked", has_text="Mia Member").wait_for()
    page.get_by_role("button", name="Cancel it").click()
    page.get_by_role("button", name="Cancel the notification").click()
    page.get_by_text("Nothing is scheduled").wait_for()
