"""The board in real browsers: moves by mouse and keyboard, seen by other users and mailed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.conftest import Stack, log_in, picture

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]

LIVE_MILLISECONDS = 10_000


def board(stack: Stack, page: Any) -> Any:
    page.goto(f"{stack.url}/work-items/board")
    page.locator(".work-card").first.wait_for()
    return page


def card(page: Any, title: str) -> Any:
    return page.locator(".work-card", has_text=title)


def titles(page: Any, status: str) -> list[str]:
    return page.locator(f"#cards-{status} .work-title").all_inner_texts()


def drag(page: Any, what: Any, to: Any) -> None:
    """As a hand does it: press, move in steps, wait a moment, let go."""
    start, end = what.bounding_box(), to.bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + 12)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + 30, steps=20)
    page.wait_for_timeout(150)
    with page.expect_response(lambda answer: answer.url.endswith("/move")) as moved:
        page.mouse.up()
    assert moved.value.ok


def test_a_dragged_card_sends_mails_and_is_in_the_history(stack: Stack, open_page: Callable[..., Any]):
    staff, admin = log_in(stack, open_page(), "staff"), log_in(stack, open_page(), "admin")
    board(stack, staff)
    board(stack, admin)
    picture(staff, "board")
    drag(staff, card(staff, "Print 300 programmes"), staff.locator("#cards-IN_REVIEW"))
    assert "Print 300 programmes" in titles(staff, "IN_REVIEW")

    # The other one sees it without doing anything.
    admin.locator("#cards-IN_REVIEW .work-card", has_text="Print 300 programmes").wait_for(timeout=LIVE_MILLISECONDS)

    card(staff, "Print 300 programmes").locator(".work-title").click()
    change = staff.locator(".timeline-item", has_text="in review").first
    assert "Stefan Staff" in change.inner_text()
    sent = change.locator(".effect", has_text="work-item-status")
    sent.get_by_text("sent").first.wait_for(timeout=30_000)
    assert sent.count() == 2, "the assignee and the reporter"
    picture(staff, "work-item")

    staff.goto(f"{stack.url}/dev/inbox")
    mail = staff.locator("a", has_text="In review: Print 300 programmes")
    assert mail.count() == 2
    mail.first.click()
    text = staff.frame_locator("iframe.mail-frame").locator("body").inner_text()
    assert "Stefan Staff moved this task to In review" in text or "You moved this task to In review" in text
    assert staff.frame_locator("iframe.mail-frame").get_by_role("link", name="View the task").count() == 1


def test_a_card_is_moved_by_the_keyboard_alone(stack: Stack, open_page: Callable[..., Any]):
    page = board(stack, log_in(stack, open_page(), "staff"))
    handle = card(page, "Dress rehearsal").locator(".card-handle")
    before = titles(page, "TODO")
    handle.focus()
    page.keyboard.press("Space")
    assert handle.get_attribute("aria-pressed") == "true"
    assert "is picked up" in page.locator("#board-says").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert titles(page, "TODO") == before, "put back"
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    with page.expect_response(lambda answer: answer.url.endswith("/move")) as moved:
        page.keyboard.press("Space")
    assert moved.value.ok
    assert "Dress rehearsal" in titles(page, "IN_PROGRESS")
    page.reload()
    assert "Dress rehearsal" in titles(page, "IN_PROGRESS")


def test_a_move_is_undone_with_one_click(stack: Stack, open_page: Callable[..., Any]):
    page = board(stack, log_in(stack, open_page(), "staff"))
    before = titles(page, "TODO")
    handle = page.locator("#cards-TODO .card-handle").last
    handle.focus()
    for key in ("Space", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    with page.expect_response(lambda answer: answer.url.endswith("/move")):
        page.keyboard.press("Space")
    assert before[-1] in titles(page, "IN_REVIEW")
    with page.expect_response(lambda answer: answer.url.endswith("/move")) as undone:
        page.get_by_role("button", name="Undo").click()
    assert undone.value.ok
    page.locator("#cards-TODO .work-card", has_text=before[-1]).wait_for(timeout=LIVE_MILLISECONDS)
    assert titles(page, "TODO") == before
    assert page.locator("#board-undo").is_hidden()


def test_the_page_can_be_walked_by_the_keyboard_and_a_card_opened(stack: Stack, open_page: Callable[..., Any]):
    page = board(stack, log_in(stack, open_page(), "member"))
    focused = "document.activeElement.className + ' ' + document.activeElement.textContent.trim()"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(focused).startswith("work-title"):
            break
    title = page.evaluate("document.activeElement.textContent.trim()")
    page.keyboard.press("Enter")
    page.locator("h1", has_text=title).wait_for()


def test_on_a_telephone_in_the_dark_the_columns_are_reached_by_swiping(stack: Stack, open_page: Callable[..., Any]):
    page = log_in(stack, open_page(360, 740, color_scheme="dark"), "staff")
    board(stack, page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    columns = page.locator("#board")
    assert columns.evaluate("(board) => board.scrollWidth > board.clientWidth")
    page.locator("#column-BLOCKED").scroll_into_view_if_needed()
    box = page.locator("#column-BLOCKED").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in ground.strip("rgb()").split(",")[:3]) < 3 * 64
    picture(page, "board-telephone")


def test_a_mention_in_a_comment_is_mailed(stack: Stack, open_page: Callable[..., Any]):
    page = board(stack, log_in(stack, open_page(), "staff"))
    card(page, "Tune the piano").locator(".work-title").click()
    page.get_by_label("Comment", exact=True).fill("@member is <b>Thursday</b> all right?")
    page.get_by_role("button", name="Comment", exact=True).click()
    page.get_by_text("is <b>Thursday</b> all right?").wait_for()
    page.goto(f"{stack.url}/dev/inbox")
    named = page.locator("a", has_text="Stefan Staff mentioned you: Tune the piano")
    for _ in range(30):
        if named.count():
            break
        page.wait_for_timeout(500)
        page.reload()
    assert named.count() == 1
