"""The colours of mails are those of the desk: the `light-dark()` pairs of app.css, written out, because mail programs
know neither custom properties nor `light-dark()`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from flask_belfry.mail.errors import MailTemplateError

DARK_RULES = "@media (prefers-color-scheme: dark)"

_DEFINITION = re.compile(r"--([\w-]+):\s*light-dark\(\s*([^,()]+?)\s*,\s*([^,()]+?)\s*\)\s*;")
_USE = re.compile(r"var\(--([\w-]+)\)")


class Color(NamedTuple):
    """A colour in the light and in the dark theme."""

    light: str
    dark: str


def read_colors(stylesheet: str) -> dict[str, Color]:
    """Return the colours that a style sheet defines as `--name: light-dark(…, …);`, by name."""
    return {match[1]: Color(match[2], match[3]) for match in _DEFINITION.finditer(stylesheet)}


def resolve_colors(layout: str, colors: Mapping[str, Color]) -> str:
    """Replace each `var(--name)`: by the dark colour in what follows `DARK_RULES`, else by the light one.

    Raises:
        MailTemplateError: a colour is not defined.
    """
    light, marker, dark = layout.partition(DARK_RULES)
    try:
        light = _USE.sub(lambda match: colors[match[1]].light, light)
        dark = _USE.sub(lambda match: colors[match[1]].dark, dark)
    except KeyError as error:
        raise MailTemplateError(f"the colour --{error.args[0]} is not defined in app.css") from error
    return light + marker + dark
