"""Rendering: a kind's three templates and a context become a subject, a text and an HTML document.

`body.html` and `body.txt` of `templates/email/<kind>/` are fragments without `{% extends %}`: each replaces the marker
in `templates/email/layout.html` or `layout.txt`. The application's templates override those of this package. The CSS is
inlined into the fragment and its layout together, once per kind.

The layout may use the colours of the application's style sheet (`Host.mail_stylesheet`) as `var(--name)`. They are
replaced by their values, because mail programs support neither custom properties nor `light-dark()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask, current_app
from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
)

from flask_belfry.changes.host import current_host
from flask_belfry.db.columns import error_text
from flask_belfry.mail.errors import MailTemplateError
from flask_belfry.mail.inlining import inline_css
from flask_belfry.mail.registry import MailKind, kind_of

HTML_LAYOUT, TEXT_LAYOUT = "email/layout.html", "email/layout.txt"
CONTENT_MARKER = "<!-- content -->"
DARK_RULES = "@media (prefers-color-scheme: dark)"
_TEMPLATES = Path(__file__).parent / "templates"
_COLOR_DEFINITION = re.compile(r"--([\w-]+):\s*light-dark\(\s*([^,()]+?)\s*,\s*([^,()]+?)\s*\)\s*;")
_COLOR_USE = re.compile(r"var\(--([\w-]+)\)")


class Color(NamedTuple):
    """A colour in the light and in the dark theme."""

    light: str
    dark: str


@dataclass(frozen=True)
class Rendered:
    """The contents of a mail; the subject is one line."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class _Compiled:
    """The compiled templates of one kind; `is_current` reports whether their files are unchanged."""

    subject: Template
    text: Template
    html: Template
    is_current: Callable[[], bool]


class Renderer:
    """Renders the mails of one application; the templates of a kind are compiled at their first use."""

    def __init__(self, app: Flask) -> None:
        assert app.jinja_env.loader is not None, "a Flask application has a template loader"
        self._loader = ChoiceLoader([app.jinja_env.loader, FileSystemLoader(_TEMPLATES)])
        self._html: Environment = app.jinja_env.overlay(loader=self._loader, undefined=StrictUndefined, autoescape=True)
        self._text: Environment = self._html.overlay(autoescape=False, trim_blocks=True, lstrip_blocks=True)
        self._reloads = bool(app.debug or app.config["APP_ENV"] == "development")
        self._compiled: dict[str, _Compiled] = {}

    def render(self, kind: str, context: Mapping[str, Any]) -> Rendered:
        """Render one mail; see the function `render`."""
        compiled = self._templates(kind)
        try:
            subject = " ".join(compiled.subject.render(context).split())
            values = {**context, "subject": subject}
            return Rendered(subject, compiled.text.render(values), compiled.html.render(values))
        except (TemplateError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # The errors of a template whose context does not fit; a retry would fail again.
            raise MailTemplateError(f"{kind} cannot be rendered: {error_text(error)}") from error

    def _templates(self, kind: str) -> _Compiled:
        compiled = self._compiled.get(kind)
        if compiled is None or (self._reloads and not compiled.is_current()):
            # Two threads may compile concurrently; the results are equal.
            compiled = self._compiled[kind] = self._compile(kind)
        return compiled

    def _compile(self, kind: str) -> _Compiled:
        folder = f"email/{kind_of(kind).folder}"
        own = (f"{folder}/subject.txt", f"{folder}/body.txt", f"{folder}/body.html")
        try:
            sources, checks = zip(*map(self._source, (*own, TEXT_LAYOUT, HTML_LAYOUT)), strict=True)
            subject, text, html, text_layout, html_layout = sources
            text = _combined(TEXT_LAYOUT, text_layout, own[1], text.rstrip())
            html = _combined(HTML_LAYOUT, resolve_colors(html_layout, self._colors), own[2], html)
            return _Compiled(
                _compiled(self._text, subject, own[0]),
                _compiled(self._text, text, own[1]),
                _compiled(self._html, inline_css(html, self._html), own[2]),
                lambda: all(is_current() for is_current in checks),
            )
        except TemplateNotFound as error:
            raise MailTemplateError(f"the mail {kind} has no template {error.name}") from error
        except TemplateError as error:
            raise MailTemplateError(f"a template of the mail {kind} is invalid: {error}") from error

    def _source(self, name: str) -> tuple[str, Callable[[], bool]]:
        source, _, is_current = self._loader.get_source(self._html, name)
        return source, is_current or (lambda: True)

    @cached_property
    def _colors(self) -> Mapping[str, Color]:
        stylesheet = current_host().mail_stylesheet()
        return {} if stylesheet is None else read_colors(stylesheet.read_text("utf-8"))


def init_app(app: Flask) -> None:
    """Set the renderer of `app`."""
    app.extensions["mail_renderer"] = Renderer(app)


def render(kind: str, context: Mapping[str, Any], recipient: str, unsubscribe_url: str | None = None) -> Rendered:
    """Render one mail. A name that is missing in the context is an error, never an empty text.

    Args:
        kind: the folder under `templates/email`.
        context: the context from the kind's function. It may override the common names: `app_name`, `public_url`,
            `recipient`, `link` (makes a path absolute), `reason`, `is_optional` (whether recipients may opt out of the
            kind) and `unsubscribe_url`.
        recipient: the recipient's email address.
        unsubscribe_url: where the recipient opts out without a login; None if the mail has no such page.

    Raises:
        UnknownMailError: the kind is not registered.
        MailTemplateError: a template is invalid, or the context does not fit it.
    """
    renderer: Renderer = current_app.extensions["mail_renderer"]
    return renderer.render(kind, _common_context(kind_of(kind), recipient, unsubscribe_url) | dict(context))


def absolute_url(path: str) -> str:
    """Return the URL of a path such as `/reservations/42`, from PUBLIC_URL: a worker has no request with a host."""
    return f"{current_app.config['PUBLIC_URL']}/{path.lstrip('/')}"


def read_colors(stylesheet: str) -> dict[str, Color]:
    """Return the colours that a style sheet defines as `--name: light-dark(…, …);`, by name."""
    return {match[1]: Color(match[2], match[3]) for match in _COLOR_DEFINITION.finditer(stylesheet)}


def resolve_colors(layout: str, colors: Mapping[str, Color]) -> str:
    """Replace each `var(--name)` with its colour: after `DARK_RULES` the dark one, before it the light one.

    Raises:
        MailTemplateError: a colour is not defined.
    """
    light, marker, dark = layout.partition(DARK_RULES)
    try:
        light = _COLOR_USE.sub(lambda match: colors[match[1]].light, light)
        dark = _COLOR_USE.sub(lambda match: colors[match[1]].dark, dark)
    except KeyError as error:
        raise MailTemplateError(f"{HTML_LAYOUT}: the style sheet defines no colour --{error.args[0]}") from error
    return light + marker + dark


def _common_context(kind: MailKind, recipient: str, unsubscribe_url: str | None) -> dict[str, Any]:
    common = {
        "app_name": current_host().app_name(),
        "public_url": current_app.config["PUBLIC_URL"],
        "recipient": recipient,
        "link": absolute_url,
        "is_optional": kind.choice is not None,
        "unsubscribe_url": unsubscribe_url,
    }
    return common if kind.reason is None else common | {"reason": kind.reason}


def _combined(layout_name: str, layout: str, name: str, fragment: str) -> str:
    before, marker, after = layout.partition(CONTENT_MARKER)
    if not marker:
        raise MailTemplateError(f"{layout_name} lacks the marker {CONTENT_MARKER}")
    if "{% extends" in fragment:
        raise MailTemplateError(f"{name} is inserted into {layout_name}: it must not contain extends")
    return before + fragment + after


def _compiled(environment: Environment, source: str, name: str) -> Template:
    code = environment.compile(source, name, name)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))
