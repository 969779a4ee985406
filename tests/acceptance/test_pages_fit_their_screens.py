"""What only a browser shows: that nothing is cut, hidden or unreadable on a narrow screen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Stack, broken_words, log_in, make_batch

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]

# How far a table's text reaches over the inner edge of its parent, in pixels.
OVERHANG = """(element) => {
    const [box, style] = [element.parentElement.getBoundingClientRect(), getComputedStyle(element.parentElement)];
    const inner = Math.max(...[...element.querySelectorAll("td")].map((cell) => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return range.getBoundingClientRect().right;
    }));
    return inner - (box.right - parseFloat(style.paddingRight) - parseFloat(style.borderRightWidth));
}"""

# How many lines an element's text takes.
LINES = """(element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getClientRects().length;
}"""


@pytest.fixture
def narrow(stack: Stack, page: Any) -> Any:
    """A telephone in the hands of staff."""
    page.set_viewport_size({"width": 360, "height": 740})
    return log_in(stack, page, "staff")


def test_the_demo_logins_stay_within_their_card(stack: Stack, page: Any):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{stack.url}/login")
    assert page.locator(".demo-table").evaluate(OVERHANG) <= 0


@pytest.mark.parametrize("path", ["/jobs/?state=cancelled", "/mails?state=skipped", "/reservations/?status=cancelled"])
def test_the_chosen_filter_is_in_view_and_the_page_stays_where_it_is(stack: Stack, narrow: Any, path: str):
    narrow.goto(f"{stack.url}{path}")
    box = narrow.locator(".tabs [aria-current], .chips [aria-current]").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert narrow.evaluate("scrollY") == 0


def test_nothing_is_wider_than_the_screen_and_rows_break_alike(stack: Stack, narrow: Any):
    for path in (
        "/",
        "/reservations/",
        "/work-items",
        "/students?show=all",
        "/classes",
        "/operations",
        "/jobs/failures",
        "/jobs/",
        "/jobs/batches",
        "/jobs/queues",
        "/mails",
        "/dev/inbox",
        "/mails/previews",
        "/mails/suppressions",
        "/account",
        "/account/sessions",
        "/audit",
        "/schedule",
        "/account/tokens",
        "/account/devices",
        "/notifications",
        "/notifications/new",
        "/notifications/scheduled",
        "/notifications/preferences",
        "/inbox",
    ):
        narrow.goto(f"{stack.url}{path}")
        assert narrow.evaluate("document.documentElement.scrollWidth") <= 360, path
    narrow.goto(f"{stack.url}/reservations/")
    starts = narrow.locator("tbody .cell-line").evaluate_all(
        "cells => cells.map((c) => c.getBoundingClientRect().left)"
    )
    assert len(set(starts)) == 1
    heights = narrow.locator("tbody tr[id]").evaluate_all("rows => rows.map((r) => Math.round(r.offsetHeight / 4))")
    assert len(set(heights)) == 1


def test_no_word_is_broken_where_another_line_has_space_for_it(stack: Stack, page: Any):
    log_in(stack, page, "admin")
    # So that no list of jobs and mails is empty.
    page.goto(f"{stack.url}/reservations/new")
    page.get_by_label("Start").fill("2031-01-04T10:00")
    page.get_by_role("button", name="Create reservation").click()
    page.locator(".timeline .effect", has_text="reservation-new").get_by_text("sent").wait_for(timeout=30_000)
    items = []
    for kind in ("epic", "story"):
        page.goto(f"{stack.url}/work-items?kind={kind}")
        items += page.locator("tbody a.row-link").evaluate_all("links => links.map((a) => a.getAttribute('href'))")
    tables = ("users", "job_records", "work_items", "email_messages", "audit_entries", "status_changes", "schedules")
    make_batch(stack)
    paths = ["/", "/jobs/", "/jobs/batches", "/jobs/queues", "/mails", "/audit", "/reservations/", "/work-items"]
    paths += ["/students?show=all", "/classes", "/schools"]
    paths += ["/schedule", "/account/tokens", "/notifications", "/notifications/new", "/inbox"]
    broken = {}
    for path in [*paths, *(f"/admin/{table}/" for table in tables), *items]:
        page.goto(f"{stack.url}{path}")
        for width in (1440, 1024, 360):
            page.set_viewport_size({"width": width, "height": 900})
            broken[f"{path} at {width}"] = broken_words(page)
    assert {path: found for path, found in broken.items() if found} == {}


def test_a_new_token_is_copied_with_one_click(stack: Stack, page: Any):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    log_in(stack, page, "member")
    page.goto(f"{stack.url}/account/tokens")
    page.get_by_label("Name").fill("Import")
    page.get_by_label("See your profile").check()
    page.get_by_role("button", name="Create token").click()
    page.get_by_role("button", name="Copy token").click()
    page.get_by_text("Copied").wait_for()
    token = page.locator("#token-made").inner_text()
    assert token.startswith("belfry_")
    assert page.evaluate("navigator.clipboard.readText()") == token


def test_the_numbers_of_the_overview_are_on_one_line(stack: Stack, narrow: Any):
    narrow.goto(f"{stack.url}/")
    tops = narrow.locator(".number strong").evaluate_all("all => all.map((n) => n.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    assert tops[2] == tops[3]


def test_the_link_past_the_navigation_can_be_read(stack: Stack, narrow: Any):
    narrow.goto(f"{stack.url}/reservations/")
    narrow.keyboard.press("Tab")
    link = narrow.locator(".skip-link:focus")
    color, ground = link.evaluate("(e) => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    assert (color, ground) == ("rgb(27, 35, 39)", "rgb(255, 255, 255)")


def test_a_mail_and_its_job_are_shown_whole(stack: Stack, narrow: Any):
    narrow.goto(f"{stack.url}/reservations/new")
    narrow.get_by_label("Start").fill("2031-01-02T10:00")
    narrow.get_by_label("Note").fill("We bring our own cello.")
    narrow.get_by_role("button", name="Create reservation").click()
    narrow.locator(".timeline .effect", has_text="reservation-new").get_by_text("sent").wait_for(timeout=30_000)
    narrow.goto(f"{stack.url}/dev/inbox")
    subject = narrow.locator("a", has_text="action required").first
    assert subject.evaluate("(e) => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth")
    subject.click()
    frame = narrow.locator("iframe.mail-frame")
    button = narrow.frame_locator("iframe.mail-frame").get_by_role("link", name="Confirm or cancel it")
    box, around = button.bounding_box(), frame.bounding_box()
    assert box["y"] + box["height"] <= around["y"] + around["height"]
    narrow.goto(f"{stack.url}/jobs/?name=mail.deliver")
    narrow.locator("tbody a.row-link").first.click()
    assert narrow.locator(".values .code").first.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    # A step that is weeks away has a date, and its distance in days: neither is broken.
    gap = narrow.locator(".cycle-gap").last
    gap.evaluate(
        "(e) => { e.textContent = '+18 d 13 h'; e.previousElementSibling.textContent = '18 Dec, 01:07:31.090'; }"
    )
    assert gap.evaluate(LINES) == 1
