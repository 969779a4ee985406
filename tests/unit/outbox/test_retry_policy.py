"""Retry policies as a table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import structlog

from flask_belfry.execution import JobTimeoutError, RetryPolicy, retry_after_seconds


class PassingError(Exception):
    """May pass."""


class LastingError(PassingError):
    """A kind of PassingError that will not."""


MAIL = RetryPolicy((60, 120, 240, 480, 900), retry_on=(PassingError,), give_up_on=(LastingError,))


@pytest.mark.parametrize(
    ("policy", "attempt", "error", "delay"),
    [
        (MAIL, 1, PassingError(), 60),
        (MAIL, 2, PassingError(), 120),
        (MAIL, 3, PassingError(), 240),
        (MAIL, 4, PassingError(), 480),
        (MAIL, 5, PassingError(), 900),
        (MAIL, 6, PassingError(), None),
        (MAIL, 1, LastingError(), None),
        (MAIL, 1, ValueError(), None),
        (RetryPolicy(), 1, ValueError(), None),
        (RetryPolicy((5,)), 1, ValueError(), 5),
        (RetryPolicy((5,)), 1, JobTimeoutError(), 5),
        (MAIL, 1, JobTimeoutError(), None),
        (RetryPolicy((0,)), 1, ValueError(), 0),
    ],
)
def test_what_follows_a_failed_attempt(policy, attempt, error, delay):
    assert policy.delay_after(attempt, error) == delay


class BusyError(Exception):
    """Asks for a delay."""


ASKED = RetryPolicy((60, 120), retry_on=(BusyError,), delay_from=lambda error: error.args[0])


@pytest.mark.parametrize(
    ("asked", "attempt", "delay"),
    [
        (None, 1, 60),
        (None, 2, 120),
        (5, 1, 5),
        (0.5, 2, 0.5),
        (500, 1, 500),
        (0, 1, 0),
        (-3, 1, 0),
        (10**12, 1, 30 * 86_400),
        (float("inf"), 1, 30 * 86_400),
        (float("nan"), 1, 60),
        (5, 3, None),  # it delays a retry, and allows none
    ],
)
def test_the_delay_that_an_error_asks_for_replaces_the_usual_one(asked, attempt, delay):
    assert ASKED.delay_after(attempt, BusyError(asked)) == delay


def test_an_error_that_is_not_retried_is_not_asked_for_its_delay():
    assert ASKED.delay_after(1, ValueError(5)) is None


def test_a_delay_that_cannot_be_read_is_logged_and_the_usual_one_applies():
    with structlog.testing.capture_logs() as logs:
        assert ASKED.delay_after(1, BusyError("soon")) == 60
    assert [line["event"] for line in logs] == ["retry.delay_unknown"]


def test_jitter_never_shortens_the_delay_that_an_error_asks_for():
    policy = RetryPolicy((1,), jitter=0.5, delay_from=lambda error: 100)
    assert all(100 <= policy.delay_after(1, ValueError()) <= 150 for _ in range(200))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("9" * 400, 3_600),
        ("Mon, 30 Nov 2026 08:00:30 GMT", 30),
        ("Monday, 30-Nov-26 08:01:00 GMT", 60),
        ("Mon Nov 30 08:02:00 2026", 120),
        ("Mon, 30 Nov 2026 07:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Mon, 99 Nov 2026 08:00:00 GMT", None),
        ("Mon, 30 Nov 2026 08:00:00 +9999999999999", None),
    ],
)
def test_the_value_of_a_retry_after_header_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, datetime(2026, 11, 30, 8, tzinfo=UTC)) == seconds


def test_a_retry_after_that_is_too_long_is_cut_and_logged():
    now = datetime(2026, 11, 30, 8, tzinfo=UTC)
    with structlog.testing.capture_logs() as logs:
        assert retry_after_seconds("3600", now) == 3_600
        assert retry_after_seconds("7200", now, at_most=86_400) == 7_200
    assert logs == []
    with structlog.testing.capture_logs() as logs:
        assert retry_after_seconds("86400", now) == 3_600
    assert [(line["event"], line["retry_after"], line["seconds"]) for line in logs] == [
        ("retry.retry_after_cut", "86400", 3_600)
    ]


def test_max_attempts_counts_the_first_one():
    assert MAIL.max_attempts == 6
    assert RetryPolicy().max_attempts == 1


def test_jitter_adds_up_to_its_share():
    policy = RetryPolicy((100,), jitter=0.5)
    delays = {policy.delay_after(1, ValueError()) for _ in range(200)}
    assert len(delays) > 100
    assert all(100 <= delay <= 150 for delay in delays)


@pytest.mark.parametrize(("delays", "jitter"), [((-1,), 0), ((1,), 2), ((1,), -0.1)])
def test_a_policy_that_makes_no_sense_is_refused(delays, jitter):
    with pytest.raises(ValueError, match="must be"):
        RetryPolicy(delays, jitter=jitter)
