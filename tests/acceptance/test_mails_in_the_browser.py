"""Every kind of mail as a mail program shows it: it fits a telephone and can be read, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app import create_app
from flask_belfry.mail.previews import preview
from flask_belfry.mail.registry import kinds
from flask_belfry.mail.rendering import render

pytestmark = pytest.mark.browser

WORD = "https://school.example/" + "x" * 177

# The lowest contrast of a text with its background: WCAG requires 4.5 for small text.
LOWEST_CONTRAST = """() => {
    const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (element) => {
        const color = numbers(getComputedStyle(element).backgroundColor);
        return color[3] === 0 ? ground(element.parentElement) : color;
    };
    const texts = [...document.body.querySelectorAll("*")].filter((element) =>
        [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return Math.min(...texts.map((element) => {
        const [a, b] = [numbers(getComputedStyle(element).color), ground(element)].map(luminance);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }));
}"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    environ = {"APP_ENV": "testing", "DATABASE_URL": "sqlite:///unused.sqlite3", "REDIS_URL": "redis://127.0.0.1:1"}
    app = create_app(environ=environ, instance_path=tmp_path)
    with app.app_context():
        yield app


def lengthened(value: Any) -> Any:
    """A value of a sample with a long word in each of its texts."""
    if isinstance(value, str):
        return f"{value} {WORD}"
    return [lengthened(part) for part in value] if isinstance(value, list) else value


def test_no_mail_with_a_long_word_is_wider_than_a_telephone_and_each_can_be_read(
    app: Flask, open_page: Callable[..., Any]
):
    page = open_page(360, 740)
    for kind in kinds():
        context = {name: lengthened(value) for name, value in kind.sample().items()}
        page.set_content(render(kind.name, context, f"{WORD}@example.org").html)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, kind.name
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(LOWEST_CONTRAST) >= 4.5, f"{kind.name}, {scheme}"


def test_it_was_not_me_looks_different_from_it_was_me(app: Flask, open_page: Callable[..., Any]):
    page = open_page(360, 740)
    page.set_content(preview("login-new-address").html)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        sheet, mine, others = (
            found.evaluate("(e) => getComputedStyle(e).backgroundColor")
            for found in (
                page.locator(".content"),
                page.get_by_role("link", name="It was me", exact=True),
                page.get_by_role("link", name="It was not me", exact=True),
            )
        )
        assert others == sheet != mine
