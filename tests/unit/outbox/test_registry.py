"""The registry of jobs: what `@job` refuses when it is declared, and the typed methods of what it returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flask_belfry.execution import job
from flask_belfry.outbox import JobArgumentError, JobRequest
from flask_belfry.outbox.registry import JobDefinition, definitions, forget
from tests.domain import act_in_chunks, greet, tell

ROOT = Path(__file__).parents[3]


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
    (lambda session: None, {"takes": ("ticket_id",)}, "must come with `chunk`"),
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


def test_calling_a_job_calls_its_function():
    assert tell(None, 7, old="open", new="done") == {"old": "open", "new": "done"}


def test_a_request_has_the_arguments_by_keyword_and_the_options():
    assert greet.request(ticket_id=7) == greet.request(7) == JobRequest({"ticket_id": 7})
    request = tell.with_options(unique_key="a", unique_while_waiting=True).request(7, "open", new="done")
    assert request == JobRequest({"ticket_id": 7, "old": "open", "new": "done"}, "a", unique_while_waiting=True)


def test_too_many_arguments_and_the_same_one_twice_are_refused():
    for args, kwargs in (((1, 2), {}), ((1,), {"ticket_id": 2})):
        with pytest.raises(JobArgumentError, match="too many arguments, or the same one twice"):
            greet.request(*args, **kwargs)


def test_the_arguments_of_a_chunk_are_those_that_it_takes():
    assert (act_in_chunks.parameters, act_in_chunks.required) == (("ticket_id",), {"ticket_id"})
    assert (tell.parameters, tell.required) == (("ticket_id", "old", "new"), {"ticket_id", "old", "new"})


def test_a_name_belongs_to_one_module():
    first = job("test.of_one_module")(lambda session: None)

    def other(session: object) -> None: ...

    other.__module__ = "another"
    try:
        with pytest.raises(ValueError, match=r"is registered by .*test_registry already"):
            job("test.of_one_module")(other)
        assert isinstance(first, JobDefinition)
    finally:
        forget("test.of_one_module")


TYPED = """
from sqlalchemy.orm import Session
from flask_belfry.execution import Chunk, job

@job("typed.one")
def one(session: Session, item_id: int, note: str = "") -> dict[str, int]:
    return {"id": item_id}

@job("typed.many", chunk=10, takes=("item_id",))
def many(chunk: Chunk) -> None: ...

id: str = one.enqueue(item_id=1)
one.with_options(delay=5, unique_key="a").enqueue(item_id=1, note="x")
one.enqueue_many([one.request(item_id=n) for n in range(3)])
many.enqueue(item_id="x")
one.enqueue(item_id="1")  # error
one.enqueue()  # error
one.enqueue(item_id=1, other=2)  # error
one.with_options(delay=5).request(note="x")  # error
one.with_options(delays=5)  # error
number: int = one.enqueue(item_id=1)  # error
"""


def test_a_type_checker_finds_arguments_that_do_not_fit_the_function(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    command = [Path(sys.executable).with_name("pyright"), "--outputjson", file]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = {each["range"]["start"]["line"] for each in json.loads(done.stdout)["generalDiagnostics"]}
    assert found == {number for number, line in enumerate(TYPED.splitlines()) if "# error" in line}
