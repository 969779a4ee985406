"""The documentation says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import GROUPS, SETTINGS
from app.settings import Derived, Setting

ROOT = Path(__file__).parents[2]
SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text()


def default_in_words(setting: Setting) -> str:
    match setting.default:
        case Derived(words=words):
            return words
        case None:
            return "unset"
        case bool(value):
            return f"`{value}`".lower()
        case tuple(delays):
            return f"`{','.join(map(str, delays))}`"
        case float(value):
            return f"`{value:g}`"
        case value:
            return f"`{value}`"


def row(setting: Setting) -> str:
    return f"| `{setting.name}` | {setting.parse.takes} | {default_in_words(setting)} | {setting.why} |"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: Setting) -> None:
    assert row(setting) in SETTINGS_PAGE.splitlines(), "docs/settings.md lacks the row above"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = {line.split("`")[1] for line in SETTINGS_PAGE.splitlines() if line.startswith("| `")}

    assert documented == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("heading", [group.heading for group in GROUPS])
def test_every_group_of_settings_has_its_heading(heading: str) -> None:
    assert f"## {heading}" in SETTINGS_PAGE.splitlines()
