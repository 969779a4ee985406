"""How far a notification has come, as its pages show it."""

from __future__ import annotations

import pytest

from app.notifications.emails import paragraphs_of
from app.notifications.models import DeliveryState
from app.notifications.outcomes import GROUPS, outcome_of

COUNTS = {"mail": {"delivered": 6, "bounced": 1, "failed": 1}, "push": {"skipped": 2, "held": 3, "queued": 1}}


def test_deliveries_are_counted_in_groups_and_drawn_in_their_order():
    outcome = outcome_of(COUNTS, is_sending=False)
    assert outcome.sizes == {"delivered": 6, "failed": 2, "not sent": 2, "waiting": 4}
    assert (outcome.total, outcome.ended) == (14, 10)
    assert [name for name, _, _ in outcome.segments] == ["delivered", "failed", "not sent"]
    ends = [start + width for _, start, width in outcome.segments]
    assert ends == pytest.approx([6000 / 14, 8000 / 14, 10000 / 14], abs=0.02)


def test_deliveries_that_are_not_written_yet_wait_while_it_is_sent():
    outcome = outcome_of({"mail": {"delivered": 5}}, is_sending=True, expected=20)
    assert (outcome.total, outcome.ended, outcome.sizes["waiting"]) == (20, 5, 15)
    assert outcome_of({"mail": {"delivered": 5}}, is_sending=False, expected=20).total == 5


def test_a_notification_without_deliveries_has_an_empty_bar():
    outcome = outcome_of({}, is_sending=False)
    assert (outcome.total, outcome.segments) == (0, [])


def test_every_state_of_a_delivery_is_in_a_group():
    assert GROUPS.keys() == set(DeliveryState)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("One\nline", ["One\nline"]),
        ("One\n\nTwo", ["One", "Two"]),
        ("One\n \t\n\n\nTwo\n", ["One", "Two"]),
        ("", []),
    ],
)
def test_blank_lines_separate_paragraphs(text: str, blocks: list[str]):
    assert paragraphs_of(text) == blocks
