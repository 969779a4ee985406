"""Text, docstrings, comments and docs use none of the words that CONTRIBUTING.md rules out."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

QUOTES_THEM = Path(__file__)  # this file has them as data
ROOT = Path(__file__).parents[2]

# Folders and files whose prose is still to be rewritten. Empty when that is done.
NOT_YET: tuple[str, ...] = ()

# Words that are wrong wherever they occur, with what to write instead. Words with a right use (at once, letter, room,
# takes, away) are left to the review.
BANNED = {
    r"(?i:who|whom)(?i:so)?ever": "name the role: the caller, the worker, the user",
    r"(?i:nobody|somebody|anybody|everybody)": "name the role, or no one, anyone, everyone",
    r"(?i:anew)": "again",
    r"(?i:deeds?)": "action, audit event",
    r"(?i:wish|wishes|wished)": "opt-out, preference",
    r"(?i:(?<!there )is no)(?! longer| more| one)|(?i:that are no)(?! longer)": "is not a, is invalid",
    r"(?<!there )(?:is|are|be) none": "is invalid, does not exist",
    r"(?i:for good)": "permanently",
    r"(?i:at the present)|(?i:present moment)": "current, now",
    r"(?i:stands)(?! for | in for )": "is, is defined, is listed",
    r"(?i:tells|told)": "describes, notifies, reports, shows",
    r"(?i:giv(?:e|es|ing|en) back|gave back)": "release",
    r"(?i:ask(?:s|ed|ing)? for (?:a |an |the )?(?:jobs?|mails?|emails?))": "enqueue, send",
    r"(?i:(?<!-)faces?)(?!-)": "public API, package",
    r"(?i:That are too many)": "Select between 1 and N items.",
    r"(?i:signs? of life)": "heartbeat",
}
PATTERN = re.compile("|".join(rf"(?P<w{i}>\b(?:{pattern})\b)" for i, pattern in enumerate(BANNED)))
REPLACEMENTS = list(BANNED.values())

Line = tuple[int, str]


def _numbered(text: str, first: int = 1) -> Iterator[Line]:
    yield from enumerate(text.splitlines(), first)


def _in_python(text: str) -> Iterator[Line]:
    """Yield comments, docstrings, the names of tests, and every string of more than one word."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from _numbered(node.value, node.lineno)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def _in_template(text: str) -> Iterator[Line]:
    """Yield what a template shows: its text, and the strings within its expressions."""

    def strings(match: re.Match[str]) -> str:
        return re.sub(r"""("[^"]*"|'[^']*')|[^\n]""", lambda part: part[1] or " ", match[0])

    yield from _numbered(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", strings, text, flags=re.DOTALL))


def _in_glossary(text: str) -> Iterator[Line]:
    """Yield a page without its tables, which name the words."""
    return ((number, line) for number, line in _numbered(text) if not line.startswith("|"))


def prose(path: Path) -> Iterator[Line]:
    """Yield the lines of a file that people read, with their numbers."""
    text = path.read_text()
    if path.name == "CONTRIBUTING.md":
        return _in_glossary(text)
    if path.suffix == ".py":
        return _in_python(text)
    return _in_template(text) if "templates" in path.parts else _numbered(text)


def _paths() -> list[Path]:
    packages = [ROOT / name for name in ("flask_belfry", "app", "jobs")]
    others = [ROOT / name for name in ("tests", "bench", "migrations")]
    code = [path for folder in packages + others for path in folder.rglob("*.py") if path != QUOTES_THEM]
    code = [path for path in code if ".venvs" not in path.parts]  # the installed peers of the bench
    templates = [path for folder in packages for path in folder.rglob("templates/**/*") if path.is_file()]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    return sorted([*code, *templates, *pages, *ROOT.glob("*.py"), *(ROOT / "app" / "static").glob("*.js")])


def findings(path: Path) -> list[str]:
    """Return the banned words of a file, each with its line and what to write instead."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: write {REPLACEMENTS[int((match.lastgroup or 'w0')[1:])]}"
        for number, line in prose(path)
        for match in PATTERN.finditer(line)
    ]


def _area(path: Path) -> str:
    """Return the package or page that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    if path.suffix == ".md":
        return "/".join(parts)
    return "/".join(parts[: 3 if parts[:2] == ("app", "templates") else 2][: len(parts) - 1]) or parts[0]


AREAS = sorted({_area(path) for path in _paths()})


@pytest.mark.parametrize("area", AREAS)
def test_no_text_uses_a_banned_word(area: str) -> None:
    paths = [path for path in _paths() if _area(path) == area]
    found = [line for path in paths for line in findings(path)]
    if area in NOT_YET:
        pytest.skip(f"{len(found)} still to be rewritten")
    assert found == []


def test_every_area_that_is_still_to_be_rewritten_exists() -> None:
    assert set(NOT_YET) <= set(AREAS)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", '"""Return what nobody reads."""\n', ["nobody"]),
        ("a.py", "x = 1  # begins anew\n", ["anew"]),
        ("a.py", "told = {'told': 1}\n", []),
        ("a.py", "def test_nobody_waits(): ...\n", ["nobody"]),
        ("a.py", "raise ValueError(f'{x} is no day')\n", ["is no"]),
        ("a.py", '"""There is no row, or it is no longer there."""\n', []),
        ("app/templates/a.html", "{% if x is none %}Deeds{% endif %}", ["Deeds"]),
        ("app/templates/a.html", '{{ empty("Nobody is\nhere", wish) }}', ["Nobody"]),
        ("docs/a.md", "The rule stands in `rules.py`; `var` stands for it.", ["stands"]),
        ("CONTRIBUTING.md", "| again | anew |\n\nwhoever\n", ["whoever"]),
    ],
)
def test_banned_words_are_found_where_people_read(
    name: str, text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert [line.split("'")[1] for line in findings(path)] == expected
