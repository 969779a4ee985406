"""CSS inlined into a mail's template source, once, before it is compiled: rendering then costs what Jinja costs.

The HTML parser must not see Jinja's tags, for it moves text that stands between table rows out of the table. Each tag
is replaced by something that the parser leaves in its place, and put back afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import css_inline
from jinja2 import Environment

from flask_belfry.mail.errors import MailTemplateError

# What follows the last "<" when that begins a tag that is not closed yet; `value` is an open attribute value.
_OPEN_TAG = re.compile(r"""<[a-zA-Z](?:[^"'>]|"[^"]*"|'[^']*')*(?P<value>"[^"]*|'[^']*)?""")
# The parser takes what stands in these elements as text, comments included.
_TEXT_ONLY = re.compile(r"<(title|style|textarea|script)\b[^>]*>(?:(?!</\1).)*\Z", re.IGNORECASE | re.DOTALL)
# The parser adds the <tbody> that people leave out at the first row: when a loop begins before that, inside the loop.
_TABLE_WITHOUT_BODY = re.compile(
    r"(<table\b[^>]*>)(?!(?:\s|<!--.*?-->)*<(?:tbody|thead|tfoot|caption|col|colgroup)\b)", re.IGNORECASE | re.DOTALL
)
_PLACEHOLDER = re.compile(r"<!--jinja(\d+)x-->|jinja(\d+)x")
_PIECE_ENDS = {"variable_begin": "variable_end", "block_begin": "block_end", "raw_begin": "raw_end"}

_inliner = css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)


@dataclass
class _Protected:
    """HTML with placeholders, and the Jinja tags that they stand for, in order."""

    html: str = ""
    tags: list[str] = field(default_factory=list)

    def add_tag(self, tag: str) -> None:
        """Puts a placeholder for `tag`: a comment, or a word where a comment would be taken as text."""
        name = f"jinja{len(self.tags)}x"
        self.tags.append(tag)
        self.html += name if self._takes_words_only(tag) else f"<!--{name}-->"

    def _takes_words_only(self, tag: str) -> bool:
        start_tag = _OPEN_TAG.fullmatch(self.html, max(self.html.rfind("<"), 0))
        if start_tag is None:
            return _TEXT_ONLY.search(self.html) is not None
        if start_tag["value"] is None:
            raise MailTemplateError(f"{tag} stands inside a start tag: put it inside an attribute's quotes")
        return True


def inline_css(source: str, environment: Environment) -> str:
    """The template source with the rules of its `<style>` written into `style` attributes.

    `@media` rules stay in a `<style>`, for mail programs that know them.

    Args:
        source: Jinja source of a whole HTML document.
        environment: whose delimiters it uses.

    Raises:
        MailTemplateError: a Jinja tag stands where the HTML parser would move or lose it.
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
    """The source as Jinja's own lexer cuts it: (is it a tag, its text); Jinja's comments are left out."""
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
        strayed = next(tag for number, tag in enumerate(tags) if found[number : number + 1] != [number])
        raise MailTemplateError(f"{strayed} does not stay in its place when the HTML around it is parsed")
