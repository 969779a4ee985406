"""The results that a job may return, and how they are stored."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import pytest

from flask_belfry.execution.errors import JobResultError
from flask_belfry.execution.results import result_text


def nested(levels: int) -> list[Any]:
    return reduce(lambda inner, _: [inner], range(levels - 1), [])


class Broken(dict[str, Any]):
    """A dict that raises an error that cannot be formatted either."""

    def items(self) -> Any:
        raise Rude


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "result", [{"n": 1, "title": "Ünïted 🎉"}, [], 0, "a\0b", "\\ud", nested(100), ["[" * 200, '"[' * 200]]
)
def test_small_json_is_stored_as_it_is(result: Any) -> None:
    assert json.loads(result_text(result) or "") == result


def test_no_result_is_stored_as_none() -> None:
    assert result_text(None) is None


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (object(), "small JSON or None: Object of type object"),
        (float("nan"), "Out of range"),
        ("x" * 10_000, "at most 10000 bytes of JSON, not 10002"),
        (nested(101), "at most 100 levels"),
        (nested(980), "at most 100 levels|recursion"),
        (nested(5_000), "recursion"),
        (["\ud800"], "half a surrogate pair"),
        (Broken(n=1), "<Rude cannot be shown>"),
    ],
    ids=["object", "nan", "long", "101", "980", "5000", "surrogate", "broken"],
)
def test_what_is_not_small_json_is_refused(result: Any, says: str) -> None:
    with pytest.raises(JobResultError, match=says):
        result_text(result)
