"""Names of browsers, read from the User-Agent header, which can contain anything."""

from __future__ import annotations

import re

# The first match counts: browsers also name those that they descend from.
BROWSERS = (
    (re.compile(r"\bEdg(e|A|iOS)?/"), "Edge"),
    (re.compile(r"\b(OPR|Opera)/"), "Opera"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\b(Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b((Headless)?Chrome|Chromium|CriOS)/"), "Chrome"),
    (re.compile(r"\bVersion/\S+ .*\bSafari/"), "Safari"),
)
SYSTEMS = (
    (re.compile(r"\biPhone\b"), "iPhone"),
    (re.compile(r"\biPad\b"), "iPad"),
    (re.compile(r"\bAndroid\b"), "Android"),
    (re.compile(r"\bWindows\b"), "Windows"),
    (re.compile(r"\bMac ?OS\b"), "macOS"),
    (re.compile(r"\bCrOS\b"), "ChromeOS"),
    (re.compile(r"\bLinux\b"), "Linux"),
)
# The name of another program, without dots and slashes: mail programs turn what looks like a URL into a link.
PROGRAM = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
UNKNOWN = "an unknown browser"


def browser_of(user_agent: str | None) -> str:
    """Return for example `Firefox on Linux`, or the name of another program; never other text of the header."""
    text = user_agent or ""
    browser, system = _first(BROWSERS, text), _first(SYSTEMS, text)
    if browser and system:
        return f"{browser} on {system}"
    if browser or text.startswith("Mozilla/"):
        return browser or UNKNOWN
    program = PROGRAM.match(text)
    return program[0] if program else UNKNOWN


def _first(table: tuple[tuple[re.Pattern[str], str], ...], text: str) -> str | None:
    return next((name for pattern, name in table if pattern.search(text)), None)
