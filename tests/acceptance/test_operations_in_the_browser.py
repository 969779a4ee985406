"""Live pages in a browser: unchanged regions are left as they are, ages are counted, and the chart can be zoomed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Stack, log_in, make_batch, press, tab_to

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]

POLL = "(id) => htmx.trigger(document.getElementById(id), 'live')"
AGE = """(seconds) => {
    const time = document.querySelector("main time[data-age]");
    time.dataset.age = seconds;
    showAges();
    return time.textContent;
}"""
ZOOM = "() => { const { min, max } = [...zooms.values()][0].scales.x; return max - min; }"


@pytest.fixture
def admin(stack: Stack, page: Any) -> Any:
    """A browser in which an admin is logged in."""
    return log_in(stack, page, "admin")


@pytest.mark.parametrize(
    ("path", "poll", "id"),
    [
        ("/jobs/batches", "/jobs/batches/live", "batches"),
        ("/work-items/board", "/columns", "board"),
        ("/", "/bell", "bell"),
    ],
)
def test_an_unchanged_region_is_answered_with_304_and_stays(stack: Stack, admin: Any, path: str, poll: str, id: str):
    admin.goto(f"{stack.url}{path}")
    seen = []
    # A minute of the clock may begin between two polls: then the third is unchanged.
    while 304 not in seen and len(seen) < 4:
        with admin.expect_response(lambda response: poll in response.url) as response:
            admin.evaluate(POLL, id)
        seen.append(response.value.status)
        admin.wait_for_function("(id) => !document.getElementById(id).classList.contains('htmx-request')", arg=id)
    assert seen[0] == 200
    assert seen[-1] == 304
    assert admin.locator(f"#{id}").inner_html() != ""


def test_ages_are_counted_while_nothing_changes(stack: Stack, admin: Any):
    admin.goto(f"{stack.url}/schedule")
    texts = [admin.evaluate(AGE, seconds) for seconds in (0, 42, 200, -7_300)]
    assert texts == ["just now", "42 s ago", "3 min ago", "in 2 h"]


def test_the_chart_of_the_overview_can_be_zoomed_with_the_keyboard(stack: Stack, admin: Any):
    make_batch(stack)
    admin.goto(f"{stack.url}/operations")
    # The scheduler counts the jobs of the batch within some seconds, and the page is live.
    button = admin.get_by_role("button", name="Zoom")
    button.wait_for(timeout=60_000)
    button.focus()
    admin.keyboard.press("Enter")
    admin.locator(".chart-zoom canvas").wait_for()
    assert not admin.locator("#chart-throughput .chart-body").is_visible()
    whole = admin.evaluate(ZOOM)
    admin.keyboard.press("+")
    admin.wait_for_function(f"(whole) => ({ZOOM})() < whole", arg=whole)
    zoomed = admin.evaluate(ZOOM)
    with admin.expect_response(lambda response: "/operations/live" in response.url):
        admin.evaluate(POLL, "overview")
    admin.wait_for_function("!document.getElementById('overview').classList.contains('htmx-request')")
    assert admin.evaluate(ZOOM) == pytest.approx(zoomed, rel=0.01)
    assert button.get_attribute("aria-pressed") == "true"
    button.focus()
    admin.keyboard.press("Enter")
    admin.locator("#chart-throughput .chart-body").wait_for()


def test_jobs_are_selected_with_the_keyboard(stack: Stack, admin: Any):
    make_batch(stack)
    admin.goto(f"{stack.url}/jobs/?name=accounts.send_password_reset")
    for _ in range(2):
        tab_to(admin, "Select accounts.send_password_reset")
        admin.keyboard.press("Space")
    press(admin, "Retry", key="Shift+Tab")
    admin.wait_for_url("**/jobs/operations/new?**")
    assert "2 selected jobs" in admin.locator("main").inner_text()
    press(admin, "Back")
    admin.locator("#jobs tbody").wait_for()


def test_a_dialog_is_used_with_the_keyboard_and_returns_the_focus(stack: Stack, admin: Any):
    admin.goto(f"{stack.url}/jobs/workers")
    press(admin, "Stop")
    dialog = admin.get_by_role("dialog")
    dialog.wait_for()
    for _ in range(5):
        # At the end, the focus leaves the page for the browser, and comes back to the dialog.
        assert admin.evaluate("document.activeElement.closest('dialog, body:not(:focus-within)') !== null")
        admin.keyboard.press("Tab")
    admin.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert admin.evaluate("document.activeElement.innerText") == "Stop"
