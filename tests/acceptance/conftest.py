"""The whole stack, started in a copy of the project as `make run` starts it."""

from __future__ import annotations

import http.cookiejar
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.demo.commands import DEMO_PASSWORD
from tests.processes import check_log
from tests.servers import free_port, short_folder, wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

MAKE_BATCH = """
import cli
from flask_belfry.db import db
from flask_belfry.outbox import batch, enqueue

with cli.create().app_context():
    with batch("accounts.send_password_resets"):
        for _ in range(3):
            enqueue("accounts.send_password_reset", user_id=0)
    db.session.commit()
"""

# A held domain, a suppressed email address, and links to leave two kinds of mail, of which one does not work.
MAKE_SUPPRESSIONS = """
from datetime import timedelta

import cli
from app.accounts import User, unsubscribe_path
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.mail import SuppressionSource, suppress
from flask_belfry.mail.models import MailDomainHold

with cli.create().app_context():
    user = db.session.query(User).filter_by(username="member").one()
    print(unsubscribe_path(user.id, "notification-general"))
    print(unsubscribe_path(user.id, "no-such-kind"))
    suppress("unknown@example.org", "5.1.1", SuppressionSource.BOUNCE, reason="550 5.1.1 there is no such mailbox")
    values = {"last_reply": "550 5.7.26 unauthenticated mail is not accepted", "refusals": 5, "probes": 1}
    now = utc_now()
    db.session.add(
        MailDomainHold(domain="held.example", held_since=now, held_until=now + timedelta(hours=1), **values)
    )
    db.session.commit()
"""

# Words of the page that stand on two lines: none is as long as its box.
BROKEN_WORDS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (!parent.checkVisibility() || parent.closest("pre, code, .visually-hidden")) continue;
        for (const match of node.textContent.matchAll(/\\p{L}{2,20}/gu)) {
            const range = document.createRange();
            range.setStart(node, match.index);
            range.setEnd(node, match.index + match[0].length);
            const rects = [...range.getClientRects()].filter((rect) => rect.width > 0);
            if (new Set(rects.map((rect) => Math.round(rect.top))).size > 1) found.push(match[0]);
        }
    }
    return found;
}"""


# The name of the focused element as a user hears it, and whether it, or what it covers, is marked as focused.
FOCUSED = """() => {
    const element = document.activeElement;
    const isMarked = [null, "::after"].some((part) => {
        const style = getComputedStyle(element, part);
        return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
    });
    const name = element.getAttribute("aria-label") || element.labels?.[0]?.innerText || element.innerText;
    return [(name || "").trim().replace(/\\s+/g, " "), isMarked];
}"""


@dataclass
class Stack:
    """A running stack: where it answers, and what it has written."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def output(self) -> str:
        """All lines so far."""
        return (self.folder / "run.log").read_text(errors="replace")


class Browser:
    """A person at a browser that knows forms and cookies, and no more."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), urllib.request.ProxyHandler({})
        )

    def get(self, path: str) -> str:
        """A page's text."""
        with self._opener.open(urllib.parse.urljoin(self._url, path), timeout=30) as answer:
            return answer.read().decode()

    def post(self, path: str, page: str, **fields: str) -> str:
        """Sends a form of `page`, with its CSRF token; gives the page that follows."""
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
        assert token, "the page has no form"
        data = urllib.parse.urlencode({"csrf_token": token[1], **fields}).encode()
        with self._opener.open(urllib.parse.urljoin(self._url, path), data, timeout=30) as answer:
            return answer.read().decode()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Runs `make run` in a copy without an instance folder, and stops it as Ctrl-C does."""
    with running_stack() as running:
        yield running


@contextmanager
def running_stack(**settings: str) -> Iterator[Stack]:
    """Run a stack of its own with settings, as `stack` does."""
    with short_folder() as folder:
        copy = folder / "belfry"
        _copy_project(copy)
        url = f"http://127.0.0.1:{free_port()}"
        with (copy / "run.log").open("wb") as log:
            process = subprocess.Popen(
                ["make", "run"],
                cwd=copy,
                env=_environment(url) | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running = Stack(url, copy, process)
        try:
            wait_until(lambda: "Press Ctrl-C" in running.output() or process.poll() is not None, seconds=START_SECONDS)
            assert process.poll() is None, running.output()
            yield running
        finally:
            _interrupt(process)
        check_log(running.output())


@pytest.fixture
def browser(stack: Stack) -> Browser:
    """A user who has not logged in."""
    return Browser(stack.url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: the browser tests did not run")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, each with cookies of its own; in the end none of them may have had an error."""
    problems: list[str] = []

    def open_page(width: int = 1440, height: int = 900, **options: Any) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": height}, **options)
        page.on("console", lambda said: problems.append(told(said)) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        return page

    yield open_page
    for context in chromium.contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """A wide page."""
    return open_page()


def told(said: Any) -> str:
    """Return a message of the console and the URL that it is about."""
    return f"{said.text} ({said.location['url']})"


def log_in(stack: Stack, page: Any, name: str) -> Any:
    """Log in a user of the demo; return the page."""
    page.goto(f"{stack.url}/login")
    page.get_by_label("Username or email").fill(name)
    page.get_by_label("Password", exact=True).fill(DEMO_PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()
    page.locator("#main").wait_for()
    return page


def make_batch(stack: Stack) -> None:
    """Enqueue a batch, which no page of the demo does."""
    _run(stack, MAKE_BATCH)


def make_suppressions(stack: Stack) -> list[str]:
    """Suppress an email address and hold a domain; return the paths to leave a kind of mail, and one that is not
    found."""
    return _run(stack, MAKE_SUPPRESSIONS).split()


def _run(stack: Stack, program: str) -> str:
    python = stack.folder / ".venv/bin/python"
    answer = subprocess.run(
        [python, "-c", program],
        cwd=stack.folder,
        env=_environment(stack.url),
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
    )
    return answer.stdout


def tab_to(page: Any, name: str, key: str = "Tab") -> None:
    """Press Tab, or Shift+Tab, until the control of this name has the focus, which is visible at each stop."""
    for _ in range(80):
        page.keyboard.press(key)
        focused, is_marked = page.evaluate(FOCUSED)
        assert is_marked, f"{focused!r} does not show the focus"
        if focused == name:
            return
    pytest.fail(f"{name!r} cannot be reached with {key}")


def press(page: Any, name: str, key: str = "Tab") -> None:
    """Activate a control by the keyboard."""
    tab_to(page, name, key)
    page.keyboard.press("Enter")


def broken_words(page: Any) -> list[str]:
    """The words of the page that stand on two lines."""
    return page.evaluate(BROKEN_WORDS)


def picture(page: Any, name: str) -> None:
    """Takes a picture for the README where `PICTURES` names a folder for them."""
    if folder := os.environ.get("PICTURES"):
        size = page.viewport_size
        page.set_viewport_size({"width": min(1200, size["width"]), "height": min(600, size["height"])})
        page.screenshot(path=str(ROOT / folder / f"{name}.png"))
        page.set_viewport_size(size)


def _copy_project(copy: Path) -> None:
    skipped = shutil.ignore_patterns(".git", ".venv", "instance", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=skipped)
    # What `make install` has made; installing once more is not what is tested here.
    (copy / ".venv").symlink_to(ROOT / ".venv")


def _environment(url: str) -> dict[str, str]:
    # None of the surrounding settings: the stack starts as it does right after a clone.
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "USER", "TMPDIR")}
    return kept | {"PORT": url.rpartition(":")[2]}


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
