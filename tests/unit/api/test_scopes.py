"""The scopes of personal tokens."""

from __future__ import annotations

import pytest

from app.api.web import ApiBlueprint


def test_an_area_without_scopes_is_refused_with_the_line_to_add() -> None:
    with pytest.raises(ValueError, match=r'add "lost_items": .* to AREAS in app/api/scopes\.py'):
        ApiBlueprint("lost_items", __name__, description="Lost items", area="lost_items")
