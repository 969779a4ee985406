"""CSS goes into the template source, and Jinja's tags stay where they were."""

from __future__ import annotations

import pytest
from jinja2 import Environment

from flask_belfry.mail.errors import MailTemplateError
from flask_belfry.mail.inlining import inline_css

ENVIRONMENT = Environment(autoescape=True)


def inlined(body: str, css: str = "td { color: red; } a { color: blue; }") -> str:
    source = (
        f"<!doctype html><html><head><title>{{{{ t }}}}</title><style>{css}</style></head><body>{body}</body></html>"
    )
    return inline_css(source, ENVIRONMENT)


def rendered(body: str, **context: object) -> str:
    return ENVIRONMENT.from_string(inlined(body)).render(t="T", **context)


def test_rules_become_style_attributes() -> None:
    assert '<td style="color: red;">x</td>' in inlined("<table><tr><td>x</td></tr></table>")


def test_media_rules_stay_in_the_head() -> None:
    html = inlined("<p>x</p>", "@media (prefers-color-scheme: dark) { p { color: white !important; } }")
    assert "@media (prefers-color-scheme: dark)" in html.partition("<body>")[0]


def test_a_loop_over_table_rows_stays_inside_the_table() -> None:
    html = rendered("<table>{% for n in ns %}<tr><td>{{ n }}</td></tr>{% endfor %}</table>", ns=[1, 2])
    rows = '<tr><td style="color: red;">1</td></tr><tr><td style="color: red;">2</td></tr>'
    assert f"<table><tbody>{rows}</tbody></table>" in html


def test_a_table_with_parts_of_its_own_keeps_them() -> None:
    table = "<table>{% if x %}<thead><tr><th>h</th></tr></thead>{% endif %}<tbody><tr></tr></tbody></table>"
    assert table.replace("{% if x %}", "").replace("{% endif %}", "") in rendered(table, x=1)
    assert rendered(table, x=0).count("<tbody>") == 1


def test_an_expression_between_table_rows_stays_there() -> None:
    html = rendered("<table><tr><td>a</td></tr>{{ more }}</table>", more="")
    assert html.count("<table>") == 1


def test_tags_inside_attributes_and_the_title_are_put_back() -> None:
    html = rendered('<a href="{{ url }}?x=1&amp;y={% if url %}2{% endif %}">go</a>', url="http://h/")
    assert '<a href="http://h/?x=1&amp;y=2" style="color: blue;">go</a>' in html
    assert "<title>T</title>" in html


def test_values_are_escaped_in_text_and_in_attributes() -> None:
    html = rendered('<a href="{{ url }}">{{ name }}</a>', url='"><script>', name="<b>")
    assert "<script>" not in html
    assert "&lt;b&gt;" in html


def test_a_string_with_braces_in_an_expression_is_one_tag() -> None:
    assert "}}!" in rendered("<p>{{ '}}' ~ x }}</p>", x="!")


def test_comments_of_jinja_are_left_out() -> None:
    assert "secret" not in inlined("<p>{# secret #}x</p>")


def test_raw_blocks_are_kept_as_they_are() -> None:
    assert "{{ not }}" in rendered("<p>{% raw %}{{ not }}{% endraw %}</p>")


def test_a_tag_that_would_be_an_attribute_name_is_refused() -> None:
    with pytest.raises(MailTemplateError, match="inside a start tag"):
        inlined("<p {% if x %}class='a'{% endif %}>x</p>")


def test_a_tag_that_the_parser_would_lose_is_refused() -> None:
    with pytest.raises(MailTemplateError, match="does not stay in its place"):
        inlined('<p>a</p><p id="1" id="{{ x }}">b</p>')
