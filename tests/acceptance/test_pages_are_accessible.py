"""Every page, wide in the light and narrow in the dark: axe finds nothing serious, and nothing is cut or broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

import jobs
from app import create_app
from tests.acceptance.conftest import Stack, broken_words, log_in, make_batch, make_suppressions

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]

# No pages, or pages of who is not in.
NO_PAGES = ("/api/openapi.json", "/api/v1", "/static", "/healthz", "/readyz", "/metrics", "/login/rescue")
OF_STRANGERS = ("/login", "/register", "/confirm", "/forgot-password")
# Of rows that the address names behind a question mark, and files.
OF_ARGUMENTS = re.compile(
    r"/admin/\w+/(details|edit|delete|action|export)/|/columns$|/live$|/schedule/preview$|/find$|/bell$|/completions$"
)
LIST_OF_PANEL = re.compile(r"/admin/\w+/$")
# The form of a page whose query names a job.
WITH_QUERY = {"/schedule/new?job=work_items.tell_gathered"}
# Of each kind of page that shows one row, that of the first row of a list.
OF_ROWS = {
    **dict.fromkeys(("/reservations/", "/jobs/", "/jobs/batches", "/mails", "/notifications"), "tbody a.row-link"),
    **dict.fromkeys(("/students?text=Ruth", "/classes", "/schools"), "tbody a.row-link"),
    "/work-items/board": "a.work-title",
    "/inbox": "a.row-link",
    **dict.fromkeys(
        (f"/admin/{table}/" for table in ("users", "work_items", "email_messages", "job_records", "audit_entries")),
        "tbody a",
    ),
    "/admin/schedules/": "tbody a:has-text('reservations.sweep_overdue')",
}
# Each width and each theme once: what a theme colours does not depend on the width.
VIEWS = [(1440, "light"), (360, "dark")]

RUN = """async () => {
    const found = await axe.run(document, {resultTypes: ["violations"]});
    return found.violations
        .filter((rule) => ["serious", "critical"].includes(rule.impact))
        .map((rule) => `${rule.id}: ${rule.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(" | ")}`);
}"""


def findings(page: Any) -> list[str]:
    """What is wrong with a page: what axe finds serious, what is wider than the screen, words on two lines."""
    page.evaluate(AXE_SCRIPT)
    found: list[str] = []
    # The lists of the panel differ in their words only.
    audited = VIEWS[1:] if LIST_OF_PANEL.search(page.url) else VIEWS
    for width, scheme in VIEWS:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        wrong = [f"broken: {word}" for word in broken_words(page)]
        if (width, scheme) in audited:
            wrong += page.evaluate(RUN)
        if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
            wrong.append(f"{needed} pixels wide")
        found += [f"{width} {scheme}: {each}" for each in wrong]
    return found


def pages_without_arguments(folder: Path) -> Iterator[str]:
    """The paths of all pages that need no id."""
    app = create_app(environ={"APP_ENV": "development"}, instance_path=folder)
    jobs.init_app(app)
    for rule in app.url_map.iter_rules():
        is_page = not rule.rule.startswith(NO_PAGES) and not OF_ARGUMENTS.search(rule.rule)
        if is_page and "GET" in (rule.methods or ()) and not rule.arguments:
            yield rule.rule


def ask_for_a_mail(stack: Stack, page: Any) -> None:
    """So that no list is empty."""
    page.goto(f"{stack.url}/reservations/new")
    page.get_by_label("Start").fill("2031-01-03T10:00")
    page.get_by_role("button", name="Create reservation").click()
    page.locator(".timeline .effect", has_text="reservation-new").get_by_text("sent").wait_for(timeout=30_000)


def notify_oneself(stack: Stack, page: Any) -> None:
    """So that the lists of notifications are not empty."""
    page.goto(f"{stack.url}/notifications/new")
    page.get_by_label("Title", exact=True).fill("The choir sings")
    page.get_by_label("Text", exact=True).fill("On Friday at 15:00.")
    page.get_by_role("combobox", name="People").fill("admin")
    page.get_by_role("option", name="Ada Admin").click()
    page.get_by_role("button", name="Send notification").click()
    page.locator(".badge-state", has_text="finished").wait_for(timeout=30_000)


def test_no_page_has_serious_accessibility_problems(stack: Stack, page: Any, tmp_path: Path):
    paths = set(pages_without_arguments(tmp_path))
    strangers = sorted(path for path in paths if path.startswith(OF_STRANGERS))
    found: dict[str, list[str]] = {}
    for path in strangers:
        page.goto(f"{stack.url}{path}")
        found[path] = findings(page)
    log_in(stack, page, "admin")
    ask_for_a_mail(stack, page)
    notify_oneself(stack, page)
    make_batch(stack)
    for path in sorted(paths - set(strangers) | WITH_QUERY):
        page.goto(f"{stack.url}{path}")
        found[path] = findings(page)
    for path, link in OF_ROWS.items():
        page.goto(f"{stack.url}{path}")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.locator(link).first.click()
        page.wait_for_load_state()
        found[f"one of {path}"] = findings(page)
    assert {path: serious for path, serious in found.items() if serious} == {}


def show_refusals(page: Any) -> None:
    """Show error pages with status 200: the console has an error for each other one."""
    page.route("**/*", lambda route: route.fulfill(response=route.fetch(max_redirects=0), status=200))


def test_suppressions_and_unsubscribing_have_no_serious_accessibility_problems(
    stack: Stack, open_page: Callable[..., Any]
):
    leave, unknown = make_suppressions(stack)
    found: dict[str, list[str]] = {}
    stranger = open_page()
    stranger.goto(f"{stack.url}{leave}")
    found["unsubscribing: asked"] = findings(stranger)
    stranger.get_by_role("button", name="Unsubscribe").click()
    stranger.get_by_role("heading", name="You are unsubscribed").wait_for()
    found["unsubscribing: done"] = findings(stranger)
    stranger.get_by_role("button", name="Subscribe again").click()
    stranger.get_by_role("heading", name="You are subscribed again").wait_for()
    found["unsubscribing: undone"] = findings(stranger)
    show_refusals(stranger)
    for name, path in (("no such kind", unknown), ("forged", f"{leave}x")):
        stranger.goto(f"{stack.url}{path}")
        stranger.get_by_text("This link does not work.").wait_for()
        found[f"unsubscribing: {name}"] = findings(stranger)

    admin = log_in(stack, open_page(), "admin")
    admin.goto(f"{stack.url}/")
    admin.locator(".notice", has_text="held.example").wait_for()
    found["overview: a held domain"] = findings(admin)
    admin.goto(f"{stack.url}/mails/suppressions")
    held, suppressed = admin.locator("#hold-1"), admin.locator("tbody tr", has_text="unknown@example.org")
    found["suppressions"] = findings(admin)
    for name, row in (("the suppression", suppressed), ("the hold", held)):
        row.get_by_role("button", name="Lift", exact=True).click()
        admin.get_by_role("dialog").wait_for()
        found[f"suppressions: lifting {name}"] = findings(admin)
        admin.get_by_role("button", name=f"Lift {name}").click()
        admin.get_by_role("status").wait_for()
        found[f"suppressions: {name} is lifted"] = findings(admin)
    admin.goto(f"{stack.url}/mails/suppressions?text=nobody")
    admin.get_by_text("No suppressions match").wait_for()
    found["suppressions: not found"] = findings(admin)
    show_refusals(admin)
    admin.get_by_label("Email", exact=True).fill("nobody@nowhere")
    admin.get_by_label("Reason").fill("x")
    admin.get_by_role("button", name="Suppress").click()
    admin.get_by_role("alert").wait_for()
    found["suppressions: invalid"] = findings(admin)
    assert {state: serious for state, serious in found.items() if serious} == {}
