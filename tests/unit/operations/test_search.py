"""The language in which jobs are searched: valid and invalid terms, and completion."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db.columns import lowest_id, new_id, time_of_id
from flask_belfry.operations.search import JOBS, parse
from flask_belfry.outbox import JobState
from flask_belfry.search import MAX_COMPLETIONS, complete

NOW = datetime(2030, 5, 6, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "stat:failed",
            ["The term stat:failed is invalid", "the keys are state, name, queue", "args.NAME, since, until"],
        ),
        ("http://x.test", ["The term http://x.test is invalid", 'write text with a colon in quotes, "http:…"']),
        ("args:1", ["the keys are state"]),
        ("args.a.b:1", ["the keys are state"]),
        ("state:lost", ["The term state:lost is invalid", "one of blocked, pending"]),
        ("state:", ["The term state: is invalid", "it needs a value: one of blocked, pending"]),
        ("queue:lost", ["one of mail, default, bulk, heavy"]),
        ("tenant:one", ["the number of a school, or system"]),
        ("tenant:99999999999", ["the number of a school, or system"]),
        ("user:-7", ["the number of a user"]),
        ("user:٧", ["the number of a user"]),
        ("subject:/7", ["a type, or a type and an id"]),
        ("subject:reservation/", ["a type, or a type and an id"]),
        ("batch:7", ["the id of a batch"]),
        ("parent:7", ["the id of the job that enqueued it"]),
        ("id:7", ["the id of a job"]),
        ("since:yesterday", ["The term since:yesterday is invalid", "an age such as 30m, 2h or 7d"]),
        ("since:999999999w", ["an age such as 30m"]),
        ("until:2030-13-01", ["a time such as 2026-11-30"]),
        ("since:0001-01-01T00:00+14:00", ["a time such as 2026-11-30"]),
        ("since:1h,2h", ["give it once, with one value"]),
        ("since:1h since:2h", ["The term since:2h is invalid", "give it once, with one value"]),
        ("-since:1h", ["give it once, with one value"]),
    ],
)
def test_an_invalid_term_is_named_with_what_is_valid(text: str, messages: list[str]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse(f"state:failed {text}" if not text.startswith("state") else text, now=NOW)
    for message in messages:
        assert message in refused.value.message
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30s", datetime(2030, 5, 6, 11, 59, 30, tzinfo=UTC)),
        ("90m", datetime(2030, 5, 6, 10, 30, tzinfo=UTC)),
        ("2h", datetime(2030, 5, 6, 10, tzinfo=UTC)),
        ("2d", datetime(2030, 5, 4, 12, tzinfo=UTC)),
        ("1w", datetime(2030, 4, 29, 12, tzinfo=UTC)),
        ("2030-05-06", datetime(2030, 5, 6, tzinfo=UTC)),
        ("2030-05-06T09:14", datetime(2030, 5, 6, 9, 14, tzinfo=UTC)),
        ("2030-05-06T09:14+02:00", datetime(2030, 5, 6, 7, 14, tzinfo=UTC)),
    ],
)
def test_times_and_ages_bound_the_ids(text: str, moment: datetime) -> None:
    query = parse(f"since:{text} until:{text}", now=NOW)
    # The id of a job may be made before its row: its time of creation is compared too.
    assert query.lowest_id is not None
    assert query.highest_id is not None
    assert 0 < (moment - time_of_id(query.lowest_id)).total_seconds() <= 600
    assert time_of_id(query.highest_id) == moment
    assert lowest_id(moment) <= new_id(moment)


@pytest.mark.parametrize("text", ["0001-01-01", "1969-12-31", "9999-12-31T23:59:59"])
def test_times_at_the_ends_of_the_calendar_are_valid(text: str) -> None:
    query = parse(f"since:{text} until:{text}", now=NOW)
    assert query.highest_id is not None
    assert (query.lowest_id is None) == text.startswith(("0", "19"))


def test_a_query_can_be_changed_and_written_again() -> None:
    query = parse('state:failed  -name:mail.* "two words"', now=NOW)
    assert str(query) == 'state:failed -name:mail.* "two words"'
    assert str(query.having("state", "running")) == '-name:mail.* "two words" state:running'
    assert str(query.having("state")) == '-name:mail.* "two words"'
    assert str(query.only("state", "queue")) == "state:failed"
    assert query.values_of("state") == ("failed",)
    assert query.values_of("name") == ()
    assert query.limited_to("state", [JobState.RUNNING]).values["state"] == frozenset()


def test_parameters_are_terms_beside_those_of_the_search() -> None:
    since = datetime(2030, 5, 6, 9, tzinfo=UTC)
    given = {"state": JobState.FAILED, "name": "mail.*", "text": "state:x", "since": since, "limit": 5, "queue": None}
    query = parse("queue:mail", given, now=NOW)
    assert str(query) == 'queue:mail state:failed name:mail.* since:2030-05-06T09:00:00+00:00 "state:x"'
    with pytest.raises(InvalidInputError, match="either within the search or beside it"):
        parse("state:failed", {"state": JobState.RUNNING}, now=NOW)


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("stat", ["state:"]),
        ("-stat", ["-state:"]),
        ("state:failed na", ["state:failed name:"]),
        ("args", ["args."]),
        ("state:c", ["state:completed", "state:cancelled"]),
        ("text -state:failed,c", ["text -state:failed,completed", "text -state:failed,cancelled"]),
        ("since:2", ["since:2h", "since:24h"]),
        ("state:failed", []),
        ("args.id:4", []),
        ("unknown:4", []),
        ('"state:f', []),
        ("queue:", ["queue:mail", "queue:default", "queue:bulk", "queue:heavy"]),
    ],
)
def test_a_query_is_completed(text: str, completions: list[str]) -> None:
    assert complete(JOBS, text) == completions


def test_an_empty_query_is_completed_with_keys() -> None:
    assert complete(JOBS, "")[:3] == ["state:", "name:", "queue:"]
    assert complete(JOBS, "state:failed ")[0] == "state:failed state:"
    assert len(complete(JOBS, "")) == MAX_COMPLETIONS
