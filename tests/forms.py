"""Forms as a browser has them: what a page shows is what is sent unless the user types over it."""

from __future__ import annotations

import re


def shown_in(html: str) -> dict[str, str]:
    """The values of a form's fields."""
    form = html.partition("<main")[2]
    found = {}
    for tag in re.findall(r"<input [^>]*>", form):
        given = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if given.get("type") != "checkbox" or " checked" in tag:
            found[given["name"]] = given.get("value", "")
    for name, options in re.findall(r'<select [^>]*name="(\w+)".*?>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r'<option selected value="([^"]*)"', options)
        found[name] = chosen[1] if chosen else ""
    found |= dict(re.findall(r'<textarea [^>]*name="(\w+)".*?>\r?\n(.*?)</textarea>', form, re.DOTALL))
    return found
