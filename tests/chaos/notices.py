"""What the books say of notifications. Every finding is a sentence with its ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from app.notifications import DeliveryState, NotificationChannel, NotificationState, ScheduledState
from flask_belfry.mail import MailState
from flask_belfry.outbox import JobState
from tests.chaos.facts import Delivery, Facts, Mail

# What the end of the job of a push message makes of its delivery; a cancelled one may have been sent before.
STATES_OF_PUSHES = {
    JobState.COMPLETED: (DeliveryState.DELIVERED, DeliveryState.SKIPPED, DeliveryState.CANCELLED),
    JobState.FAILED: (DeliveryState.FAILED,),
    JobState.CANCELLED: (DeliveryState.CANCELLED, DeliveryState.DELIVERED),
}
OPEN = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.DEFERRED)
NO_DEVICE = "no device"
FALL_BACK, MAILED_INSTEAD = "notifications.fall_back", "mailed instead"
PUSH, FINISH, SEND_SCHEDULED = "notifications.push", "notifications.finish", "notifications.send_scheduled"
# What the state of a mail makes of its delivery. A cancelled delivery stays so, unless its mail was on the way.
STATES = {
    MailState.SENT: DeliveryState.DELIVERED,
    MailState.FAILED: DeliveryState.FAILED,
    MailState.UNCERTAIN: DeliveryState.FAILED,
    MailState.CANCELLED: DeliveryState.CANCELLED,
    MailState.SKIPPED: DeliveryState.SKIPPED,
}


def lost(facts: Facts) -> Iterator[str]:
    """What was committed and has not come to its end."""
    have = {(each.notification_id, each.user_id, each.channel.value) for each in facts.deliveries}
    for notice in facts.notices:
        if notice.state is NotificationState.SENDING:
            yield f"notification {notice.id} of {notice.key} is still being sent"
        if notice.state is NotificationState.FINISHED:
            for user_id in sorted(notice.people):
                for channel in notice.channels:
                    if (notice.id, user_id, channel) not in have:
                        yield f"notification {notice.id} of {notice.key} has no delivery to user {user_id} by {channel}"
    for each in facts.deliveries:
        if each.state in OPEN:
            yield f"{_described(each)} is {each.state}"
    sent = Counter(notice.key for notice in facts.notices)
    for each in facts.scheduled:
        if each.state is ScheduledState.SCHEDULED:
            yield f"scheduled notification {each.id} of {each.key} was not sent"
        elif each.state is ScheduledState.SENT and not sent[each.key]:
            yield f"scheduled notification {each.id} of {each.key} counts as sent, and there is no notification"


def phantom(facts: Facts) -> Iterator[str]:
    """What nothing that committed asks for."""
    for of, key in [
        *((f"notification {each.id}", each.key) for each in facts.notices),
        *((f"scheduled notification {each.id}", each.key) for each in facts.scheduled),
    ]:
        if key not in facts.committed:
            yield f"{of} of {key} exists, and nothing that committed asks for it"
    people = {
        (each.notification_id, token)
        for each in facts.deliveries
        if each.channel is NotificationChannel.PUSH
        for token in facts.devices.get(each.user_id, ())
    }
    for id, token in facts.pushes.keys() - people:
        yield f"FCM received a message of notification {id} to {token}, and none of its people has this device"
    sent = Counter(notice.key for notice in facts.notices)
    for each in facts.scheduled:
        if each.state is not ScheduledState.SENT and sent[each.key]:
            yield f"scheduled notification {each.id} of {each.key} is {each.state}, and was sent"


def doubled(facts: Facts) -> Iterator[str]:
    """What was sent twice, outside of what a killed or frozen process repeats."""
    for key, count in Counter(notice.key for notice in facts.notices).items():
        if count > 1:
            yield f"{count} notifications were sent for {key}"
    for each in facts.deliveries:
        allowed = 1 + _interruptions(facts, each.job_id)
        for token in _tokens(facts, each):
            count = len(facts.pushes.get((each.notification_id, token), ()))
            if count > allowed:
                yield f"{_described(each)} was accepted {count} times for {token}, {allowed - 1} interruptions"


def disagreeing(facts: Facts) -> Iterator[str]:
    """Deliveries that contradict the ledger, the server or their notification."""
    mails = {mail.id: mail for mail in facts.mails}
    notices = {notice.id: notice for notice in facts.notices}
    jobs = {job.id: job.state for job in facts.jobs}
    mailed = {
        (each.notification_id, each.user_id) for each in facts.deliveries if each.channel is NotificationChannel.MAIL
    }
    for each in facts.deliveries:
        if each.email_id is not None and (mail := mails.get(each.email_id)) is not None:
            yield from _disagreeing_mail(facts, each, mail)
        elif each.channel is NotificationChannel.PUSH:
            yield from _disagreeing_push(facts, each)
            if each.job_id is not None and each.state not in STATES_OF_PUSHES.get(jobs[each.job_id], OPEN):
                yield f"{_described(each)} is {each.state}, and its job {each.job_id} is {jobs[each.job_id]}"
        elif each.channel is NotificationChannel.IN_APP and each.state is not DeliveryState.DELIVERED:
            yield f"{_described(each)} is {each.state}: {each.reason}"
        mail = mails.get(each.email_id or "")
        is_explained = (mail.job_id if mail else each.job_id) in facts.cancelled_jobs
        is_explained |= notices[each.notification_id].state is NotificationState.CANCELLED
        is_explained |= each.reason == MAILED_INSTEAD and (each.notification_id, each.user_id) in mailed
        if each.state is DeliveryState.CANCELLED and not is_explained:
            yield f"{_described(each)} is cancelled, and its notification is not"


def _disagreeing_mail(facts: Facts, each: Delivery, mail: Mail) -> Iterator[str]:
    expected = STATES.get(mail.state)
    is_cancelled = each.state is DeliveryState.CANCELLED and mail.state is not MailState.SENT
    if each.state is not expected and not is_cancelled:
        yield f"{_described(each)} is {each.state}, and its mail {mail.id} (job {mail.job_id}) is {mail.state}"
    if mail.recipients != (facts.emails.get(each.user_id),):
        yield f"{_described(each)} is to {facts.emails.get(each.user_id)}, and its mail {mail.id} to {mail.recipients}"


def _disagreeing_push(facts: Facts, each: Delivery) -> Iterator[str]:
    tokens = _tokens(facts, each)
    accepted = [token for token in tokens if facts.pushes.get((each.notification_id, token))]
    is_delivered = each.state is DeliveryState.DELIVERED
    if is_delivered and not accepted:
        yield f"{_described(each)} is delivered, and FCM has accepted no message"
    if accepted and not is_delivered and not _interruptions(facts, each.job_id):
        yield f"{_described(each)} is {each.state}: {each.reason}, and FCM has accepted it for {accepted}"
    if each.state is DeliveryState.SKIPPED and (tokens or each.reason != NO_DEVICE):
        yield f"{_described(each)} was skipped: {each.reason}"
    is_refused = not facts.refused_pushes.isdisjoint(tokens) or each.job_id in facts.poisoned
    if each.state is DeliveryState.FAILED and not is_refused:
        yield f"{_described(each)} has failed: {each.reason}"


def late(facts: Facts) -> Iterator[str]:
    """What was sent after the cancel of its notification was committed, and was not on the way then."""
    for each, job_id, at, cancelled_at in after_cancels(facts):
        if not _was_on_the_way(facts, job_id, at, cancelled_at):
            yield f"{_described(each)} (job {job_id}) was sent {at - cancelled_at:.3f} s after its cancel"


def after_cancels(facts: Facts) -> Iterator[tuple[Delivery, str | None, float, float]]:
    """Every mail and push message that was sent after the cancel of its notification: its delivery and job, when it was
    sent, and when the cancel was known to be committed."""
    mails = {mail.id: mail for mail in facts.mails}
    cancelled = {notice.id: at for notice in facts.notices if (at := notice.cancelled_at) is not None}
    for each in facts.deliveries:
        cancelled_at = cancelled.get(each.notification_id)
        if cancelled_at is None:
            continue
        mail = mails.get(each.email_id or "")
        times = [*facts.received_at.get(mail.message_id, ())] if mail else []
        for token in _tokens(facts, each):
            times += facts.pushes.get((each.notification_id, token), ())
        for at in times:
            if at > cancelled_at:
                yield each, mail.job_id if mail else each.job_id, at, cancelled_at


def explained(facts: Facts) -> set[str]:
    """The ids of the jobs that may have failed or been cancelled."""
    batches = {notice.batch_id for notice in facts.notices if notice.state is NotificationState.CANCELLED}
    refused = {
        each.job_id
        for each in facts.deliveries
        if not facts.refused_pushes.isdisjoint(_tokens(facts, each)) and each.job_id is not None
    }
    cancelled = facts.cancelled_jobs | {
        each.job_id for each in facts.deliveries if each.reason == MAILED_INSTEAD and each.job_id is not None
    }
    # When the notification is opened again, when it is cancelled, and when it is scheduled for another time.
    others = FINISH, FALL_BACK, SEND_SCHEDULED
    return {
        job.id
        for job in facts.jobs
        if (job.state is JobState.CANCELLED and (job.batch_id in batches or job.name in others or job.id in cancelled))
        or (job.name == PUSH and job.state is JobState.FAILED and job.id in refused)
    }


def mails_of_cancelled(facts: Facts) -> set[str]:
    """The ids of the mails whose notifications or jobs were cancelled."""
    cancelled = {notice.id for notice in facts.notices if notice.state is NotificationState.CANCELLED}
    of_notices = {each.email_id for each in facts.deliveries if each.email_id and each.notification_id in cancelled}
    return of_notices | {mail.id for mail in facts.mails if mail.job_id in facts.cancelled_jobs}


def _tokens(facts: Facts, each: Delivery) -> list[str]:
    return [*facts.devices.get(each.user_id, ())] if each.channel is NotificationChannel.PUSH else []


def _interruptions(facts: Facts, job_id: str | None) -> int:
    """How many claims of a job were lost: their messages may have been accepted."""
    states = [step.state for step in facts.steps.get(job_id or "", ())]
    lost_to = (JobState.PENDING, JobState.CANCELLED)
    return sum(state == JobState.RUNNING and following in lost_to for state, following in pairwise(states))


def _was_on_the_way(facts: Facts, job_id: str | None, at: float, cancelled_at: float) -> bool:
    """Whether a worker had claimed the job before the cancel, and none has since: a frozen worker sends it later."""
    claims = [step.at for step in facts.steps.get(job_id or "", ()) if step.state == JobState.RUNNING and step.at <= at]
    return bool(claims) and claims[-1] <= cancelled_at


def _described(each: Delivery) -> str:
    return f"delivery {each.id} of notification {each.notification_id} to user {each.user_id} by {each.channel}"
