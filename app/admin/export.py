"""Export of rows as CSV, line by line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from flask_belfry.core.presentation import plain, utc_iso

# Spreadsheets run cells that start like this as formulas (OWASP, "CSV Injection"): the signs, also full-width and after
# spaces or quotes, at the start or after a character that some programs read as the end of a cell: a line break, a tab,
# and in many countries a semicolon.
FORMULA = re.compile(
    r"""\A(?=[\t\r\n])"""
    r"""|(?:\A|(?<=[;\t\r\n\v\f\x85\u2028\u2029]))(?=(?:"|[^\S\r\n])*[=+\-@\uff1d\uff0b\uff0d\uff20])"""
)


class _Line:
    """A file whose `write` returns the text."""

    def write(self, text: str) -> str:
        """Return the line; called by the CSV writer."""
        return text


def csv_lines(columns: Sequence[str], rows: Iterable[Any]) -> Iterator[str]:
    """Yield the lines of a CSV file (RFC 4180), the header first.

    Args:
        columns: names of attributes.
        rows: read one by one.
    """
    writer = csv.writer(_Line())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow([_cell(getattr(row, name)) for name in columns])


def _cell(value: Any) -> str | int | float:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return value
        case datetime():
            return utc_iso(value)
        case dict() | list():
            text = json.dumps(value, ensure_ascii=False)
        case _:
            text = plain(value)
    return FORMULA.sub("'", text)
