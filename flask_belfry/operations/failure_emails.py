"""The mail about new and regressed groups of failures: one for all that the scheduler finds together, never one for
each failure. Ignored groups cause none, since they do not regress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes import for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.mail import MailEntry, MailRequest, Skip, mail_kind, send_mails
from flask_belfry.operations.failures import subject_of
from flask_belfry.statistics import FailureGroup, FailureState, on_failure_groups
from flask_belfry.statistics.models import SYSTEM_ID

KIND = "failures"
# Of the groups of one mail; the others are counted.
MAX_SHOWN = 20
_TITLES = {FailureState.NEW: "New failure", FailureState.REGRESSED: "Failing again"}
# A user has dealt with the group before the mail was sent.
_SETTLED = (FailureState.IGNORED, FailureState.RESOLVED)

Context = dict[str, object]


@on_failure_groups
def mail_groups(session: Session, groups: Sequence[FailureGroup]) -> None:
    """Enqueue the mails about groups, in the transaction that opened them: to the users who see all schools, and
    to the operators of each school about its own."""
    event = new_id()
    _send(event, None, groups)
    by_school: defaultdict[int, list[FailureGroup]] = defaultdict(list)
    for group in groups:
        by_school[group.school_id].append(group)
    for school_id, of_school in by_school.items():
        if school_id != SYSTEM_ID:
            _send(event, school_id, of_school)


def _send(event: str, school_id: int | None, groups: Sequence[FailureGroup]) -> None:
    emails = current_host().operators(school_id)
    # The states that they got: they may have others when the mail is rendered.
    states = [[group.id, group.state.value] for group in groups[:MAX_SHOWN]]
    context = {"groups": states, "more": len(groups) - len(states)}
    key = f"{KIND}/{event}/{school_id or SYSTEM_ID}"
    subject = subject_of(groups[0]) if len(groups) == 1 else None
    with for_school(school_id):
        send_mails(KIND, [MailRequest([email], f"{key}/{n}", context, subject) for n, email in enumerate(emails)])


def _sample() -> Context:
    group = FailureGroup(
        id="0190a1b2-0000-7000-8000-000000000000",
        job_name="mail.deliver",
        error_type="ConnectionRefusedError",
        frame="mail/transport.py:connect",
        failures=12,
        first_seen_at=utc_now(),
    )
    return _context([(group, FailureState.NEW)], 0)


@mail_kind(
    KIND,
    sample=_sample,
    reason="you are allowed to retry the jobs that failed",
    choice="A job fails for a new cause, or again for a resolved one",
)
def describe(entries: Sequence[MailEntry]) -> dict[str, Context | Skip]:
    """Return the groups of each mail, without the messages of errors, which may contain personal data."""
    ids = {id for entry in entries for id, _ in entry.context["groups"]}
    query = sa.select(FailureGroup).where(FailureGroup.id.in_(ids), FailureGroup.state.not_in(_SETTLED))
    groups = {group.id: group for group in db.session.scalars(query)}
    contexts: dict[str, Context | Skip] = {}
    for entry in entries:
        shown = [(groups[id], FailureState(state)) for id, state in entry.context["groups"] if id in groups]
        more = entry.context["more"]
        contexts[entry.id] = _context(shown, more) if shown else Skip("the failures were ignored or resolved")
    return contexts


def _context(groups: Sequence[tuple[FailureGroup, FailureState]], more: int) -> Context:
    (first, state), count = groups[0], len(groups) + more
    is_one = count == 1
    return {
        "title": f"{_TITLES[state]}: {first.error_type} in {first.job_name}" if is_one else f"{count} failures of jobs",
        "groups": [
            {
                "title": _TITLES[state],
                "job": group.job_name,
                "error": group.error_type,
                "frame": group.frame,
                "failures": group.failures,
                "since": f"{group.first_seen_at:%Y-%m-%d %H:%M} UTC",
                "path": f"/jobs/failures/{group.id}",
            }
            for group, state in groups
        ],
        "more": more,
        "path": f"/jobs/failures/{first.id}" if is_one else "/jobs/failures",
    }
