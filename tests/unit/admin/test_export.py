"""CSV files that spreadsheets open: no text becomes a formula."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace

import pytest

from app.admin.export import csv_lines


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((f"{sign}1", f"'{sign}1") for sign in "=+-@\uff1d\uff0b\uff0d\uff20"),
        (" =1", "' =1"),
        ("\u3000\uff1d1", "'\u3000\uff1d1"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\nx", "'\nx"),
        ("a\n=1", "a\n'=1"),
        ("a\r\n\uff0b1\n-2", "a\r\n'\uff0b1\n'-2"),
        ("a\u2028@x", "a\u2028'@x"),
        ("a;=1", "a;'=1"),
        ('a; "\uff1d1', "a;' \"\uff1d1"),
        ("a\t@x", "a\t'@x"),
        ({"a": "b;-1\u2029+1"}, '{"a": "b;\'-1\u2029\'+1"}'),
        (["=1"], '["=1"]'),
        ("a = b", "a = b"),
        ("a; b", "a; b"),
        ("a\n\nb", "a\n\nb"),
        ("ada@example.org", "ada@example.org"),
        (-1, "-1"),
        ("", ""),
    ],
)
def test_a_text_that_begins_like_a_formula_is_quoted(text, cell):
    _, line = csv_lines(["value"], [SimpleNamespace(value=text)])
    assert list(csv.reader(io.StringIO(line, newline=""), strict=True)) == [[cell]]
