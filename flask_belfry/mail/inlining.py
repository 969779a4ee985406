"""Inlining CSS into the template source of a mail, once before it is compiled, so that rendering only runs Jinja.

The HTML parser must not see Jinja's tags, because it moves text between table rows out of the table. Each tag is
replaced by a placeholder that the parser leaves in its place, and restored afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import css_inline
from jinja2 import Environment

from flask_belfry.mail.errors import MailTemplateError

# An unfinished tag at the end of the text; `value` is an unfinished attribute value.
_OPEN_TAG = re.compile(r"""<[a-zA-Z](?:[^"'>]|"[^"]*"|'[^']*')*(?P<value>"[^"]*|'[^']*)?""")
# The parser treats the contents of these elements as text, including comments.
_TEXT_ONLY = re.compile(r"<(title|style|textarea|script)\b[^>]*>(?:(?!</\1).)*\Z", re.IGNORECASE | re.DOTALL)
# The parser adds a missing <tbody> at the first row, which may be inside a loop.
_TABLE_WITHOUT_BODY = re.compile(
    r"(<table\b[^>]*>)(?!(?:\s|<!--.*?-->)*<(?:tbody|thead|tfoot|caption|col|colgroup)\b)", re.IGNORECASE | re.DOTALL
)
_PLACEHOLDER = re.compile(r"<!--jinja(\d+)x-->|jinja(\d+)x")
_PIECE_ENDS = {"variable_begin": "variable_end", "block_begin": "block_end", "raw_begin": "raw_end"}

_inliner = css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)


@dataclass
class _Protected:
    """HTML with placeholders, and the Jinja tags that they replace, in order."""

    html: str = ""
    tags: list[str] = field(default_factory=list)

    def add_tag(self, tag: str) -> None:
        """Append a placeholder for `tag`: a comment, or a word where a comment would be text."""
        name = f"jinja{len(self.tags)}x"
        self.tags.append(tag)
        self.html += name if self._needs_word(tag) else f"<!--{name}-->"

    def _needs_word(self, tag: str) -> bool:
        start_tag = _OPEN_TAG.fullmatch(self.html, max(self.html.rfind("<"), 0))
        if start_tag is None:
            return _TEXT_ONLY.search(self.html) is not None
        if start_tag["value"] is None:
            raise MailTemplateError(f"{tag} is inside a start tag: it must be in a quoted attribute value")
        return True


def inline_css(source: str, environment: Environment) -> str:
    """Return the template source with the rules of its `<style>` moved to `style` attributes.

    `@media` rules stay in the `<style>`, for mail programs that support them.

    Args:
        source: the Jinja source of a complete HTML document.
        environment: defines the delimiters.

    Raises:
        MailTemplateError: the HTML parser would move or remove a Jinja tag.
    """
    protected = _protect(source, environment)
    html = _inliner.inline(_TABLE_WITHOUT_BODY.sub(r"\1<tbody>", protected.html))
    _check_lost_tags(html, protected.tags)
    return _PLACEHOLDER.sub(lambda match: protected.tags[int(match[1] or match[2])], html)


def _protect(source: str, environment: Environment) -> _Protected:
    protected = _Protected()
    for is_tag, piece in _pieces(source, environment):
        if is_tag:
            protected.add_tag(piece)
        else:
            protected.html += piece
    return protected


def _pieces(source: str, environment: Environment) -> Iterator[tuple[bool, str]]:
    """Split the source with Jinja's lexer into (is a tag, text), without Jinja's comments."""
    tokens = iter(environment.lex(source))
    for _, kind, text in tokens:
        if kind in _PIECE_ENDS:
            for _, inner, more in tokens:
                text += more
                if inner == _PIECE_ENDS[kind]:
                    break
            yield True, text
        elif not kind.startswith("comment"):
            yield False, text


def _check_lost_tags(html: str, tags: list[str]) -> None:
    found = [int(match[1] or match[2]) for match in _PLACEHOLDER.finditer(html)]
    if found != list(range(len(tags))):
        moved = next(tag for number, tag in enumerate(tags) if found[number : number + 1] != [number])
        raise MailTemplateError(f"{moved} does not stay in its place when the HTML around it is parsed")
