"""The documentation of the API in a real browser: a token is entered, and a request is tried."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Stack, log_in
from tests.acceptance.test_pages_are_accessible import findings

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.xdist_group("stack")]


def reveal(page: Any, id: str) -> Any:
    """Scroll until an operation is there: Swagger UI renders those near the screen only, when there are many."""
    operation = page.locator(f"#{id}")
    for top in range(0, 40_000, 300):
        if operation.count():
            break
        page.evaluate("top => window.scrollTo(0, top)", top)
        page.wait_for_timeout(100)
    operation.scroll_into_view_if_needed()
    return operation


def test_a_request_is_tried_with_a_personal_token_and_every_step_is_accessible(stack: Stack, page: Any):
    log_in(stack, page, "member")
    page.goto(f"{stack.url}/account/tokens")
    page.get_by_label("Name").fill("Documentation")
    page.get_by_label("See your profile").check()
    page.get_by_role("button", name="Create token").click()
    token = page.locator("#token-made").inner_text()

    page.goto(f"{stack.url}/api/docs")
    page.locator(".opblock").first.wait_for()
    found = findings(page)
    page.locator(".auth-wrapper").get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    dialog.get_by_role("textbox").fill(token)
    found += findings(page)
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").first.click()

    operation = reveal(page, "operations-Profile-get_api_v1_me")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    response = operation.locator(".live-responses-table .response")
    response.wait_for()
    assert response.locator(".response-col_status").inner_text().split()[0] == "200"
    assert '"username": "member"' in response.locator(".highlight-code").first.inner_text()

    # Inputs of every kind, and examples that scroll.
    for name in ("get_api_v1_reservations", "patch_api_v1_reservations__reservation_id_"):
        operation = reveal(page, f"operations-Reservations-{name}")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
    found += findings(page)
    assert found == []
