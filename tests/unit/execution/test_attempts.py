"""The frame of an error: the innermost one of the application's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_belfry.core.settings.casts import whole_number
from flask_belfry.execution.attempts import frame_of
from flask_belfry.outbox.models import FRAME_CHARACTERS

ROOT = Path(__file__).parents[3]
ELSEWHERE = Path("/nowhere")
HERE = "tests/unit/execution/test_attempts.py"


class Reader:
    """Calls libraries."""

    def read(self) -> None:
        json.loads("{")

    def read_setting(self) -> None:
        whole_number(1).convert("x")


def error_of(act: Callable[[], object]) -> Exception:
    """Return what a function raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    caught.value.__traceback__ = caught.tb
    return caught.value


def test_the_innermost_frame_of_the_application_counts():
    assert frame_of(error_of(Reader().read), ROOT) == f"{HERE}:Reader.read"
    assert frame_of(error_of(Reader().read_setting), ROOT) == f"{HERE}:Reader.read_setting"


def test_a_line_that_moved_makes_no_new_frame():
    source = "def act():\n    raise ValueError\n"
    codes = [compile(blank + source, str(ROOT / "app/moved.py"), "exec") for blank in ("", "\n\n")]
    names = []
    for code in codes:
        scope: dict[str, Callable[[], object]] = {}
        exec(code, scope)
        names.append(frame_of(error_of(scope["act"]), ROOT))
    assert names == ["app/moved.py:act"] * 2


def test_without_one_a_frame_of_flask_belfry_counts_and_then_any():
    belfry = frame_of(error_of(Reader().read_setting), ELSEWHERE)
    assert belfry is not None
    assert belfry.startswith("flask_belfry/core/settings/")
    assert frame_of(error_of(Reader().read), ELSEWHERE) == "decoder.py:JSONDecoder.raw_decode"
    assert frame_of(ValueError(), ROOT) is None


def test_a_library_within_the_folder_of_the_application_is_not_its_code():
    path = ROOT / ".venv" / "lib" / "site-packages" / "library.py"
    scope: dict[str, Callable[[], object]] = {}
    exec(compile("def act():\n    raise ValueError", str(path), "exec"), scope)
    assert frame_of(error_of(scope["act"]), ROOT) == f"{HERE}:error_of"


def test_a_long_frame_keeps_its_end():
    scope: dict[str, Callable[[], object]] = {}
    exec(compile("def act():\n    raise ValueError", str(ROOT / "app" / ("a" * 300)), "exec"), scope)
    frame = frame_of(error_of(scope["act"]), ROOT) or ""
    assert (len(frame), frame[-5:]) == (FRAME_CHARACTERS, "a:act")
