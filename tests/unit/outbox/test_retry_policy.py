"""Retry policies as a table."""

from __future__ import annotations

import pytest

from flask_belfry.execution import JobTimeoutError, RetryPolicy


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
