"""The grammar of the search language."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_belfry.core.errors import InvalidInputError
from flask_belfry.search.terms import MAX_CHARACTERS, MAX_VALUES, Term, join, parse_terms

# What has a meaning in the grammar, and what has none.
CHARACTERS = st.sampled_from('ab1:,"\\-*/. \té\u00a0\u2028')
TEXT = st.text(CHARACTERS, min_size=1, max_size=12)
KEYS = st.sampled_from(["", "state", "a-b_c", "args.userId", "_1"])


@st.composite
def any_term(draw: st.DrawFn) -> Term:
    """A term with any values."""
    key = draw(KEYS)
    values = draw(st.lists(TEXT, min_size=1, max_size=3 if key else 1))
    return Term(key, tuple(values), draw(st.booleans()))


# How fast a busy machine draws is not what is tested.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(any_term(), max_size=3))
def test_what_is_written_is_read_again(terms: list[Term]) -> None:
    assert parse_terms(join(terms)) == terms


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(CHARACTERS, max_size=30))
def test_any_text_is_either_terms_or_refused(text: str) -> None:
    try:
        terms = parse_terms(text)
    except InvalidInputError:
        return
    assert parse_terms(join(terms)) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("   ", []),
        ("state:failed", [Term("state", ("failed",))]),
        ("State:failed", [Term("state", ("failed",))]),
        ("args.userId:7", [Term("args.userId", ("7",))]),
        ("state:failed,running", [Term("state", ("failed", "running"))]),
        ("-name:mail.*", [Term("name", ("mail.*",), is_excluded=True)]),
        ("since:2030-05-06T09:14", [Term("since", ("2030-05-06T09:14",))]),
        ("subject:reservation/42", [Term("subject", ("reservation/42",))]),
        ("error:", [Term("error", ())]),
        ('text -word "two words" -"and -more"', None),
        ("one,two", [Term("", ("one,two",))]),
        ("-", [Term("", ("-",))]),
        ('"state:failed"', [Term("", ("state:failed",))]),
        ('args.text:"a, b",c', [Term("args.text", ("a, b", "c"))]),
        (r'"say \"hi\" \\ there"', [Term("", ('say "hi" \\ there',))]),
        ("naïve", [Term("", ("naïve",))]),
    ],
)
def test_a_query_is_read(text: str, terms: list[Term] | None) -> None:
    if terms is None:
        terms = [Term("", ("text",)), Term("", ("word",), True)]
        terms += [Term("", ("two words",)), Term("", ("and -more",), True)]
    assert parse_terms(text) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"open', 'The term "open is invalid: a quote must be closed'),
        ('state:failed "a"b', 'The term "a"b is invalid: a quote must be closed'),
        ("name:a,", "The term name:a, is invalid: write its values as a,b"),
        ("name:,a", "The term name:,a is invalid: write its values as a,b"),
        ('name:a"b"', 'The term name:a"b" is invalid: write its values as a,b'),
        ('name:""', 'The term name:"" is invalid: write its values as a,b'),
        ('""', 'The term "" is invalid: it has no text'),
        ("a\x00b", "The search is invalid."),
        ("a" * (MAX_CHARACTERS + 1), "The search is too long."),
        ("a:" + ",".join("1" * (MAX_VALUES + 1)), "The search is too long."),
    ],
)
def test_a_term_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_terms(text)
    assert refused.value.message.startswith(message)
    assert list(refused.value.fields) == ["q"]
