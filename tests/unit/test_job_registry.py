"""What `@job` refuses when it is declared, instead of failing at its first run."""

from __future__ import annotations

import pytest

from flask_belfry.execution import job
from flask_belfry.execution.registry import definitions


def named_name(session, name):
    """An argument that `enqueue` has for itself."""


def named_delay(session, delay=0):
    """Another, with a default."""


def named_unique_key(session, *, unique_key):
    """Another, by keyword only."""


def named_session(connection, session):
    """The session under the name of an argument."""


def any_arguments(session, *args):
    """Arguments without names."""


def any_keywords(session, **kwargs):
    """Arguments that no signature names."""


def by_position(session, ticket_id, /):
    """An argument that cannot be passed by keyword."""


def without_session():
    """A function of nothing."""


def by_keyword_only(*, session):
    """A session that cannot be passed first."""


async def coroutine(session):
    """A function of which nothing runs when it is called."""


def generator(session):
    """Another."""
    yield


async def async_generator(session):
    """And another."""
    yield


def chunk_and_more(chunk, ticket_id):
    """A chunk's arguments are in its items."""


REFUSED = [
    (named_name, {}, "cannot be called 'name'"),
    (named_delay, {}, "cannot be called 'delay'"),
    (named_unique_key, {}, "cannot be called 'unique_key'"),
    (named_session, {}, "cannot be called 'session'"),
    (any_arguments, {}, "by keyword.*args"),
    (any_keywords, {}, "by keyword.*kwargs"),
    (by_position, {}, "by keyword.*ticket_id"),
    (without_session, {}, "first parameter"),
    (by_keyword_only, {}, "first parameter"),
    (coroutine, {}, "plain function"),
    (generator, {}, "plain function"),
    (async_generator, {}, "plain function"),
    (chunk_and_more, {"chunk": 10}, "only parameter"),
    (lambda chunk: None, {"chunk": 10, "takes": ("subject",)}, "cannot be called 'subject'"),
    (lambda session: None, {"takes": ("ticket_id",)}, "goes with `chunk`"),
]


@pytest.mark.parametrize(("function", "options", "said"), REFUSED)
def test_a_function_that_cannot_be_a_job_is_refused_where_it_is_declared(function, options, said):
    with pytest.raises(ValueError, match=f"test.refused: .*{said}"):
        job("test.refused", **options)(function)
    assert "test.refused" not in {definition.name for definition in definitions()}


@pytest.mark.parametrize("name", ["", "n" * 121, "test.\0"])
def test_a_name_that_no_database_takes_is_refused(name):
    with pytest.raises(ValueError, match="1 to 120 characters"):
        job(name)
