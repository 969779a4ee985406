"""Rendering: three templates and a context become a mail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jinja2 import DictLoader

from app import create_app
from flask_belfry.changes.host import Host, set_host
from flask_belfry.mail import MailTemplateError, UnknownMailError, optional_kinds, registry
from flask_belfry.mail.previews import list_previews, preview
from flask_belfry.mail.registry import MailKind, kind_of, kinds, mail_kind
from flask_belfry.mail.rendering import (
    DARK_RULES,
    Rendered,
    Renderer,
    absolute_url,
    read_colors,
    render,
    resolve_colors,
)

TEXT_LAYOUT = "<!-- content -->\n\n-- \nBecause {{ reason }}.\n{% if is_optional %}\nChoose.\n{% endif %}\n"
LAYOUT = "<html><head><style>p { color: red; }</style></head><body><!-- content --></body></html>"

UseTemplates = Callable[..., None]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    environ = {
        "APP_ENV": "testing",
        "DATABASE_URL": "sqlite:///unused.sqlite3",
        "REDIS_URL": "redis://127.0.0.1:1",
        "PUBLIC_URL": "https://desk.example.org/belfry",
    }
    app = create_app(environ=environ, instance_path=tmp_path)
    with app.app_context():
        yield app


@pytest.fixture
def use_templates(app: Flask, monkeypatch: pytest.MonkeyPatch) -> UseTemplates:
    """Registers the mail `note`, from these sources."""

    def use_templates(
        subject: str = "S",
        text: str = "T",
        html: str = "<p>H</p>",
        layout: str = LAYOUT,
        folder: str = "note",
        reason: str | None = "you asked for it",
    ) -> None:
        own = {"subject.txt": subject, "body.txt": text, "body.html": html}
        layouts = {"email/layout.html": layout, "email/layout.txt": TEXT_LAYOUT}
        app.jinja_env.loader = DictLoader({f"email/{folder}/{name}": source for name, source in own.items()} | layouts)
        app.extensions["mail_renderer"] = Renderer(app)
        monkeypatch.setitem(registry._kinds, "note", MailKind("note", lambda entries: {}, dict, reason))

    return use_templates


def rendered(**context: Any) -> Any:
    return render("note", context, "ada@example.org")


def body_of(mail: Rendered) -> str:
    """The text without its footer."""
    return mail.text.partition("\n\n-- \n")[0]


def test_the_subject_is_one_line_whatever_is_in_it(use_templates: UseTemplates) -> None:
    use_templates(subject="Hello\n {{ name }}\n")
    assert rendered(name="Ada\r\nBcc: eve@example.org").subject == "Hello Ada Bcc: eve@example.org"


def test_html_is_escaped_and_text_is_not(use_templates: UseTemplates) -> None:
    use_templates(subject="{{ x }}", text="{{ x }}", html="<p>{{ x }}</p>")
    mail = rendered(x="<b>&")
    assert (mail.subject, body_of(mail)) == ("<b>&", "<b>&")
    assert '<p style="color: red;">&lt;b&gt;&amp;</p>' in mail.html


def test_a_name_that_the_context_lacks_is_an_error(use_templates: UseTemplates) -> None:
    use_templates(html="<p>{{ missing }}</p>")
    with pytest.raises(MailTemplateError, match=r"note cannot be rendered: 'missing' is undefined"):
        rendered()


def test_a_mail_without_templates_is_an_error(use_templates: UseTemplates) -> None:
    use_templates(folder="other")
    with pytest.raises(MailTemplateError, match=r"note has no template email/note/subject.txt"):
        rendered()


@pytest.mark.parametrize("part", ["html", "text"])
def test_a_fragment_that_extends_a_layout_is_refused(use_templates: UseTemplates, part: str) -> None:
    use_templates(**{part: '{% extends "email/layout.html" %}'})
    with pytest.raises(MailTemplateError, match="must not contain extends"):
        rendered()


def test_css_is_inlined_once_for_a_template(use_templates: UseTemplates, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    inline_css = Renderer._compile
    monkeypatch.setattr(Renderer, "_compile", lambda self, kind: calls.append(kind) or inline_css(self, kind))
    use_templates()
    rendered()
    rendered()
    assert calls == ["note"]


def test_every_mail_knows_the_common_names(use_templates: UseTemplates) -> None:
    use_templates(text="{{ app_name }} {{ public_url }} {{ recipient }} {{ link('/a/b') }}")
    assert body_of(rendered()) == (
        "Belfry https://desk.example.org/belfry ada@example.org https://desk.example.org/belfry/a/b"
    )


def test_links_are_absolute_without_a_request(app: Flask) -> None:
    assert absolute_url("/reservations/1") == "https://desk.example.org/belfry/reservations/1"


def test_statements_on_lines_of_their_own_leave_no_blank_lines(use_templates: UseTemplates) -> None:
    use_templates(text="a\n{% if true %}\nb\n{% endif %}\nc\n")
    assert body_of(rendered()) == "a\nb\nc"


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
        assert "\n\n\n" not in mail.text


def test_an_unknown_kind_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownMailError, match="there is no mail named 'nonsense'"):
        kind_of("nonsense")


def test_a_kind_has_one_owner() -> None:
    with pytest.raises(ValueError, match=r"already registered by flask_belfry\.mail\.emails"):
        mail_kind("test-message", sample=dict, reason=None)(lambda entries: {})


@pytest.mark.parametrize("name", ["", "Two Words", "../etc", "a_b", "-a"])
def test_the_name_of_a_kind_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        mail_kind(name, sample=dict, reason=None)


# ── Footers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def footers(name: str) -> tuple[str, str]:
    """The text's and the HTML's footer of a sample, each on one line and without tags."""
    mail = preview(name)
    html = re.sub(r"<[^>]+>", "", mail.html.partition('class="footer"')[2].partition(">")[2])
    return " ".join(mail.text.partition("\n\n-- \n")[2].split()), unescape(" ".join(html.split()))


def test_every_footer_has_its_own_reason_for_the_mail(app: Flask) -> None:
    reasons = {}
    for kind in kinds():
        reason = kind.reason or kind.sample()["reason"]
        for footer in footers(kind.name):
            assert footer.startswith(f"You are receiving this email because {reason}."), kind.name
            assert "Sent to " in footer
        reasons[kind.name] = reason
    assert len(set(reasons.values())) == len(reasons)


def test_only_an_optional_kind_links_to_the_opt_out(app: Flask) -> None:
    choice = "https://desk.example.org/belfry/account#messages"
    linked = {kind.name for kind in kinds() if choice in preview(kind.name).text}
    assert linked == optional_kinds().keys()
    assert {kind.name for kind in kinds() if f'href="{choice}"' in preview(kind.name).html} == linked


def test_a_context_may_have_a_reason_of_its_own(use_templates: UseTemplates) -> None:
    use_templates()
    assert rendered().text == "T\n\n-- \nBecause you asked for it.\n"
    assert rendered(reason="she asked for it").text.endswith("Because she asked for it.\n")


def test_a_kind_without_a_reason_needs_one_in_each_context(use_templates: UseTemplates) -> None:
    use_templates(reason=None)
    with pytest.raises(MailTemplateError, match="'reason' is undefined"):
        rendered()


# ── Colours ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_colours_are_those_of_the_desk_in_the_light_and_in_the_dark(app: Flask) -> None:
    colors = read_colors((Path(app.static_folder or "") / "app.css").read_text("utf-8"))
    assert colors["accent"] == ("#0b6278", "#5cbdd6")
    html = preview("login-new-address").html
    dark, _, light = html.partition("</style>")
    assert "var(" not in html
    assert f"background-color: {colors['accent'].light};" in light
    assert f"color: {colors['red'].light};" in light
    assert colors["accent"].dark not in light
    for name in ("ground", "surface", "ink", "accent", "red"):
        assert f"{colors[name].dark} !important" in dark


def test_a_colour_that_the_desk_does_not_define_is_refused(use_templates: UseTemplates) -> None:
    use_templates(layout=LAYOUT.replace("red", "var(--mauve)"))
    with pytest.raises(MailTemplateError, match="the style sheet defines no colour --mauve"):
        rendered()


def test_an_application_without_templates_and_style_sheet_has_the_kinds_and_the_layout_of_the_package(
    app: Flask,
) -> None:
    set_host(app, Host())
    app.jinja_env.loader = DictLoader({})
    app.extensions["mail_renderer"] = Renderer(app)
    for kind in ("notice", "test-message"):
        mail = preview(kind)
        assert "\n-- \nYou are receiving this email because " in mail.text
        assert mail.text.endswith(f"Sent to ada@example.org by {app.name}, https://desk.example.org/belfry")
        assert '<h1 style="margin: 0 0 16px;' in mail.html
        assert "var(" not in mail.html
        assert kind_of(kind).reason in mail.html
    with pytest.raises(MailTemplateError, match=r"the mail welcome has no template email/welcome/subject\.txt"):
        preview("welcome")


def test_a_colour_without_a_style_sheet_is_an_error(app: Flask, use_templates: UseTemplates) -> None:
    set_host(app, Host())
    use_templates(layout=LAYOUT.replace("red", "var(--ink)"))
    with pytest.raises(MailTemplateError, match="the style sheet defines no colour --ink"):
        rendered()


def test_a_colour_is_dark_only_in_the_rules_for_the_dark() -> None:
    colors = read_colors(":root { --ink: light-dark(#111, #eee); --shadow: 0 1px light-dark(#000, #000); }")
    assert colors == {"ink": ("#111", "#eee")}
    layout = f"p {{ color: var(--ink); }} {DARK_RULES} {{ p {{ color: var(--ink); }} }}"
    assert resolve_colors(layout, colors) == f"p {{ color: #111; }} {DARK_RULES} {{ p {{ color: #eee; }} }}"


# ── Samples ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "setting", "value", "text"),
    [
        ("confirmation", "CONFIRMATION_CODE_MINUTES", 90, "expire 90 minutes after"),
        ("confirmation", "CONFIRMATION_CODE_MINUTES", 60, "expire 1 hour after"),
        ("password-reset", "PASSWORD_RESET_MINUTES", 1, "expires 1 minute after"),
        ("login-new-address", "LOGIN_ADDRESS_DAYS", 3, "expire 3 days after"),
    ],
)
def test_a_preview_has_the_lifetime_of_codes_from_the_settings(
    app: Flask, kind: str, setting: str, value: int, text: str
) -> None:
    app.config[setting] = value
    mail = preview(kind)
    for part in (mail.text, mail.html):
        assert text in " ".join(part.split())


@pytest.mark.parametrize(
    ("status", "label"),
    [("TODO", "To do"), ("IN_PROGRESS", "In progress"), ("IN_REVIEW", "In review"), ("BLOCKED", "Blocked")],
)
def test_a_status_reads_as_on_the_pages_in_each_part_of_a_mail(app: Flask, status: str, label: str) -> None:
    changed = {**kind_of("work-item-status").sample(), "new": status, "way": ["DONE", status]}
    mail = render("work-item-status", changed, "ada@example.org")
    assert mail.subject == f"{label}: Tune the piano (task #42)"
    assert f"moved this task to {label}." in mail.text
    assert f"Done -> {label}\n" in mail.text
    assert mail.html.count(f"<strong>{label}</strong>") == 2
    due = render("work-item-due", {**kind_of("work-item-due").sample(), "status": status}, "ada@example.org")
    assert f"Status:   {label}\n" in due.text
    assert f">{label}</td>" in due.html
    for part in (mail.subject, mail.text, mail.html, due.text, due.html):
        assert status not in part


def test_the_status_of_a_reservation_is_a_label_too(app: Flask) -> None:
    mail = preview("reservation-status")
    assert mail.subject == "Reservation #42 confirmed"
    assert "Pending -> Confirmed," in mail.text
    assert "Pending → <strong>Confirmed</strong>" in mail.html
