"""Rendering: from a kind's three templates and a context to a subject, a text and an HTML document.

`body.html` and `body.txt` of `templates/email/<kind>/` are fragments, without `{% extends %}`: each stands in for the
marker in `templates/email/layout.html` or `layout.txt`. The CSS is inlined into the HTML and its layout as one source,
once per kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, current_app
from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateNotFound

from flask_belfry.db.columns import error_text
from flask_belfry.mail.colors import read_colors, resolve_colors
from flask_belfry.mail.errors import MailTemplateError
from flask_belfry.mail.inlining import inline_css
from flask_belfry.mail.links import absolute_url
from flask_belfry.mail.registry import MailKind, kind_of

APP_NAME = "Belfry"
HTML_LAYOUT, TEXT_LAYOUT = "email/layout.html", "email/layout.txt"
CONTENT_MARKER = "<!-- content -->"


@dataclass(frozen=True)
class Rendered:
    """A mail as it will be read: the subject is one line."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class _Compiled:
    """The templates of one kind, ready to render, and whether their files are still the same."""

    subject: Template
    text: Template
    html: Template
    is_current: Callable[[], bool]


class Renderer:
    """Renders the mails of one application; each kind's templates are compiled at their first use."""

    def __init__(self, app: Flask) -> None:
        self._text: Environment = app.jinja_env.overlay(
            undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )
        self._html: Environment = app.jinja_env.overlay(undefined=StrictUndefined, autoescape=True)
        assert app.static_folder is not None, "the desk has a folder of static files"
        self._colors = read_colors((Path(app.static_folder) / "app.css").read_text("utf-8"))
        self._reloads = bool(app.debug or app.config["APP_ENV"] == "development")
        self._compiled: dict[str, _Compiled] = {}

    def render(self, kind: str, context: Mapping[str, Any]) -> Rendered:
        """See `render`."""
        compiled = self._templates(kind)
        try:
            subject = " ".join(compiled.subject.render(context).split())
            values = {**context, "subject": subject}
            return Rendered(subject, compiled.text.render(values), compiled.html.render(values))
        except (TemplateError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # What a template can raise over a context that does not fit it: no other attempt will fare better.
            raise MailTemplateError(f"{kind} cannot be rendered: {error_text(error)}") from error

    def _templates(self, kind: str) -> _Compiled:
        compiled = self._compiled.get(kind)
        if compiled is None or (self._reloads and not compiled.is_current()):
            # Two threads may both compile: the results are equal, and the last one stays.
            compiled = self._compiled[kind] = self._compile(kind)
        return compiled

    def _compile(self, kind: str) -> _Compiled:
        own = (f"email/{kind}/subject.txt", f"email/{kind}/body.txt", f"email/{kind}/body.html")
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
            raise MailTemplateError(f"a template of the mail {kind} is wrong: {error}") from error

    def _source(self, name: str) -> tuple[str, Callable[[], bool]]:
        assert self._html.loader is not None, "a Flask application has a template loader"
        source, _, is_current = self._html.loader.get_source(self._html, name)
        return source, is_current or (lambda: True)


def init_app(app: Flask) -> None:
    """Gives `app` its renderer."""
    app.extensions["mail_renderer"] = Renderer(app)


def render(kind: str, context: Mapping[str, Any], recipient: str) -> Rendered:
    """Renders one mail. A name that the context lacks is an error, never a blank.

    Args:
        kind: the folder under `templates/email`.
        context: what the kind's function gave; it may override the common names
            `app_name`, `public_url`, `recipient`, `link` (a path made absolute), `reason` and `is_optional` (whether
            its reader may switch the kind off).
        recipient: the address of who will read it.

    Raises:
        UnknownMailError: the kind is not registered.
        MailTemplateError: a template or the context is wrong.
    """
    renderer: Renderer = current_app.extensions["mail_renderer"]
    return renderer.render(kind, _common_context(kind_of(kind), recipient) | dict(context))


def _common_context(kind: MailKind, recipient: str) -> dict[str, Any]:
    common = {
        "app_name": APP_NAME,
        "public_url": current_app.config["PUBLIC_URL"],
        "recipient": recipient,
        "link": absolute_url,
        "is_optional": kind.choice is not None,
    }
    return common if kind.reason is None else common | {"reason": kind.reason}


def _combined(layout_name: str, layout: str, name: str, fragment: str) -> str:
    before, marker, after = layout.partition(CONTENT_MARKER)
    if not marker:
        raise MailTemplateError(f"{layout_name} lacks the marker {CONTENT_MARKER}")
    if "{% extends" in fragment:
        raise MailTemplateError(f"{name} is put into {layout_name} as it is: it takes no extends")
    return before + fragment + after


def _compiled(environment: Environment, source: str, name: str) -> Template:
    code = environment.compile(source, name, name)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))
