"""Three templates and a context become a mail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jinja2 import DictLoader

from app import create_app
from app.mail import MailTemplateError, UnknownMailError, absolute_url, page_url
from app.mail.previews import list_previews, preview
from app.mail.registry import kind_of, kinds, mail_kind
from app.mail.rendering import Renderer, render

LAYOUT = "<html><head><style>p { color: red; }</style></head><body><!-- content --></body></html>"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    environ = {
        "APP_ENV": "testing",
        "DATABASE_URL": "sqlite://",
        "REDIS_URL": "redis://127.0.0.1:1",
        "PUBLIC_URL": "https://desk.example.org/belfry",
    }
    app = create_app(environ=environ, instance_path=tmp_path)
    with app.app_context():
        yield app


def use_templates(app: Flask, subject: str = "S", text: str = "T", html: str = "<p>H</p>") -> None:
    """The mail `note`, from these sources."""
    folder = "email/note"
    templates = {f"{folder}/subject.txt": subject, f"{folder}/body.txt": text, f"{folder}/body.html": html}
    app.jinja_env.loader = DictLoader(templates | {"email/layout.html": LAYOUT})
    app.extensions["mail_renderer"] = Renderer(app)


def rendered(**context: Any) -> Any:
    return render("note", context, "ada@example.org")


def test_the_subject_is_one_line_whatever_is_in_it(app: Flask) -> None:
    use_templates(app, subject="Hello\n {{ name }}\n")
    assert rendered(name="Ada\r\nBcc: eve@example.org").subject == "Hello Ada Bcc: eve@example.org"


def test_html_is_escaped_and_text_is_not(app: Flask) -> None:
    use_templates(app, subject="{{ x }}", text="{{ x }}", html="<p>{{ x }}</p>")
    mail = rendered(x="<b>&")
    assert (mail.subject, mail.text) == ("<b>&", "<b>&")
    assert '<p style="color: red;">&lt;b&gt;&amp;</p>' in mail.html


def test_a_name_that_the_context_lacks_is_an_error(app: Flask) -> None:
    use_templates(app, html="<p>{{ missing }}</p>")
    with pytest.raises(MailTemplateError, match=r"note cannot be rendered: 'missing' is undefined"):
        rendered()


def test_a_mail_without_templates_is_an_error(app: Flask) -> None:
    use_templates(app)
    with pytest.raises(MailTemplateError, match=r"has no template email/other/subject.txt"):
        render("other", {}, "")


def test_a_fragment_that_extends_a_layout_is_refused(app: Flask) -> None:
    use_templates(app, html='{% extends "email/layout.html" %}')
    with pytest.raises(MailTemplateError, match="takes no extends"):
        rendered()


def test_css_is_inlined_once_for_a_template(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    inline_css = Renderer._compile
    monkeypatch.setattr(Renderer, "_compile", lambda self, kind: calls.append(kind) or inline_css(self, kind))
    use_templates(app)
    rendered()
    rendered()
    assert calls == ["note"]


def test_every_mail_knows_the_common_names(app: Flask) -> None:
    use_templates(app, text="{{ app_name }} {{ public_url }} {{ recipient }} {{ link('/a/b') }}")
    assert rendered().text == (
        "Belfry https://desk.example.org/belfry ada@example.org https://desk.example.org/belfry/a/b"
    )


def test_links_are_absolute_without_a_request(app: Flask) -> None:
    assert absolute_url("/reservations/1") == "https://desk.example.org/belfry/reservations/1"
    assert page_url("static", filename="app.css", v=1) == "https://desk.example.org/belfry/static/app.css?v=1"


def test_statements_on_lines_of_their_own_leave_no_blank_lines(app: Flask) -> None:
    use_templates(app, text="a\n{% if true %}\nb\n{% endif %}\nc\n")
    assert rendered().text == "a\nb\nc"


def test_every_kind_of_mail_can_be_previewed(app: Flask) -> None:
    assert {"test-message"} <= {kind.name for kind in kinds()}
    for shown in list_previews():
        mail = preview(shown.name)
        assert mail.subject == shown.subject
        assert "\n" not in mail.subject
        assert mail.text.strip()
        assert "style=" in mail.html
        assert "jinja" not in mail.html
        assert "{{" not in mail.html + mail.text


def test_an_unknown_kind_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownMailError, match="no mail is named 'nonsense'"):
        kind_of("nonsense")


def test_a_kind_has_one_owner() -> None:
    with pytest.raises(ValueError, match=r"registered by app\.mail\.emails already"):
        mail_kind("test-message", sample=dict)(lambda entries: {})


@pytest.mark.parametrize("name", ["", "Two Words", "../etc", "a_b", "-a"])
def test_the_name_of_a_kind_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="lower case letters"):
        mail_kind(name, sample=dict)
