"""The consistency of the table of states."""

from __future__ import annotations

from flask_belfry.outbox import FINALIZED, LIVE, JobState
from flask_belfry.outbox.states import CLAIMABLE, TRANSITIONS, WAITING, sources_of
from flask_belfry.workers.registration import RQ_STATUS


def test_every_state_has_its_transitions_and_its_word_in_rq():
    assert set(TRANSITIONS) == set(JobState) == set(RQ_STATUS)


def test_live_and_ended_share_nothing_and_leave_nothing_out():
    assert set(JobState) == LIVE | FINALIZED
    assert not LIVE & FINALIZED
    assert LIVE - {JobState.RUNNING} == WAITING


def test_every_live_state_leads_to_an_end():
    for state in LIVE:
        reached, new = {state}, {state}
        while new:
            new = {target for source in new for target in TRANSITIONS[source]} - reached
            reached |= new
        assert FINALIZED & reached, state


def test_every_waiting_job_can_run_and_be_cancelled():
    assert sources_of(JobState.RUNNING) == WAITING == CLAIMABLE | {JobState.BLOCKED}
    assert JobState.PENDING in TRANSITIONS[JobState.BLOCKED]
    assert sources_of(JobState.CANCELLED) >= WAITING


def test_a_completed_job_stays_so():
    assert TRANSITIONS[JobState.COMPLETED] == frozenset()
