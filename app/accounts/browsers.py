"""What a browser is called by people: read from its User-Agent, which is whatever a client sends."""

from __future__ import annotations

import re

# The first that is found counts: each browser also names those that it descends from.
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
# Of others the name alone, without dots and slashes: mail programs would make links of what looks like one.
PROGRAM = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
UNKNOWN = "an unknown browser"


def browser_of(user_agent: str | None) -> str:
    """`Firefox on Linux`; the name of a program that is no browser; never anything else that the client has sent."""
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
