"""A notification to many, by mail and by push, through servers that refuse a part of it in every way and workers that
are killed twice. The record of the server is compared with the database.

The number of people is small, for the suite. `BULK_PEOPLE=10000 pytest -m slow <this file>` is the real size: it takes
a few minutes, and `-s` shows the figures.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from app.accounts import User
from app.notifications import (
    DeliveryState,
    Notification,
    NotificationDelivery,
    NotificationState,
    counts,
    get,
)
from app.push import Device
from flask_belfry.mail import EmailMessage, EmailSuppression, MailState, SuppressionSource, held_domains, resend
from flask_belfry.mail.domain_holds import MAX_REFUSALS, lift_hold
from flask_belfry.outbox import LIVE, JobPause, JobRecord, JobState
from tests import bounce_messages, fcm
from tests.fcm import FcmServer
from tests.job_records import count
from tests.ledger import mails
from tests.notification_factories import insert_members, sent
from tests.processes import Processes, signal_tree
from tests.push_factories import insert_devices
from tests.servers import wait_until
from tests.smtp import Received, SmtpServer

PEOPLE = int(os.environ.get("BULK_PEOPLE", "600"))
PATIENCE_SECONDS = 60 + PEOPLE / 10
THREADS = 4
WORKERS = {
    "WORKER_THREADS": str(THREADS),
    "HEARTBEAT_SECONDS": "0.5",
    "RESCUE_AFTER_SECONDS": "2",
    "RELAY_SECONDS": "0.5",
}
REFUSING = "refusing.example"
EX_TEMPFAIL = 75

pytestmark = pytest.mark.slow
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def fcm_server() -> Iterator[FcmServer]:
    """A running FCM."""
    server = FcmServer(latency_seconds=0.01).start()
    yield server
    server.stop()


@pytest.fixture
def settings(settings: dict[str, Any], fcm_server: FcmServer, tmp_path: Any) -> dict[str, Any]:
    return (
        settings
        | fcm_server.settings(tmp_path)
        | {
            "MAIL_DEFAULT_SENDER": "Belfry <no-reply@belfry.example>",
            "MAIL_BOUNCE_ADDRESS": "bounces@belfry.example",
            "MAIL_RETRY_DELAYS_SECONDS": "1,1,1,1,1",
        }
    )


# ── Mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Returns:
    """The bounces of a server: it returns the mails that it has accepted for some recipients."""

    def __init__(self, app: Flask, smtp: SmtpServer, emails: Collection[str]) -> None:
        self._runner, self._smtp, self._emails = app.test_cli_runner(), smtp, emails
        self._read, self._left = 0, list[Received]()

    def send(self) -> bool:
        """Return what was accepted since the last call, and what could not be recorded yet; whether none is left."""
        new = self._smtp.received[self._read :]
        self._read += len(new)
        left = [*self._left, *(mail for mail in new if mail.recipients[0] in self._emails)]
        self._left = [mail for mail in left if not self._is_recorded(mail)]
        return not self._left

    def _is_recorded(self, mail: Received) -> bool:
        content = bounce_messages.postfix(mail.sender, mail.message_id, mail.recipients[0])
        result = self._runner.invoke(args=["mail", "bounce"], input=content)
        assert result.exit_code in (0, EX_TEMPFAIL), result.output
        return result.exit_code == 0


@pytest.mark.parametrize(
    ("database_url", "if_uncertain"), [("postgresql", "resend"), ("sqlite", "hold")], indirect=["database_url"]
)
def test_a_bulk_of_mails_through_a_server_that_refuses_a_part(
    app: Flask, session: Session, smtp: SmtpServer, processes: Processes, if_uncertain: str
) -> None:
    ids = insert_members(PEOPLE, domains=("example.org",) * 9 + (REFUSING,))
    everyone = emails_of(session, ids)
    refused = set(everyone[9::10])
    unknown, full, returned = set(everyone[0::100]), set(everyone[1::100]), set(everyone[2::100])
    late = set(everyone[3::20])
    accepted = set(everyone) - refused - unknown - full
    for email in unknown:
        smtp.fail("rcpt", "550 5.1.1 no such user", recipient=email)
    for email in full:
        smtp.fail("rcpt", "552 5.2.2 the mailbox is full", recipient=email)
    for email in late:
        # One attempt meets it twice, if it is not the first of its connection.
        smtp.fail("rcpt", "451 4.3.0 later", recipient=email, times=3)
    refusal = smtp.fail("content", "550 5.7.26 unauthenticated", recipient=f"@{REFUSING}")
    smtp.delay_seconds = 0.01
    returns = Returns(app, smtp, returned)
    processes.scheduler(**WORKERS)
    workers = WORKERS | {"MAIL_UNCERTAIN": if_uncertain}
    first = processes.worker(**workers)
    began_at = time.monotonic()
    notification = sent(channels=("mail",))
    smtp.wait_for(PEOPLE // 5, PATIENCE_SECONDS)
    signal_tree(first, signal.SIGKILL)
    second, _ = (processes.worker(**workers) for _ in range(2))
    smtp.wait_for(PEOPLE // 2, PATIENCE_SECONDS)
    signal_tree(second, signal.SIGKILL)

    def is_all_done_but_what_waits() -> bool:
        are_all_returned, is_complete = returns.send(), count(session, EmailMessage) == PEOPLE
        return are_all_returned and is_complete and live_mails(session).keys() <= {JobState.SCHEDULED}

    wait_until(is_all_done_but_what_waits, seconds=PATIENCE_SECONDS, every=0.1)
    took_seconds = time.monotonic() - began_at
    undecided = [mail for mail in mails() if mail.state is MailState.UNCERTAIN]
    sent_ids = {mail.message_id for mail in smtp.received}
    if undecided:
        # The user knows from the server's log which mails are to be sent again.
        for mail in undecided:
            if mail.message_id not in sent_ids:
                resend(mail.id)
        session.commit()
        wait_until(is_all_done_but_what_waits, seconds=PATIENCE_SECONDS, every=0.1)
    held_back = {mail.recipient for mail in undecided if mail.message_id in sent_ids} - returned

    # The server and the ledger agree: each mail that may be accepted was, and no other.
    ledger = {mail.recipient: mail for mail in mails()}
    assert sorted(ledger) == sorted(everyone)
    assert by_state(ledger.values()) == {
        MailState.SENT: accepted - returned - held_back,
        **({MailState.UNCERTAIN: held_back} if held_back else {}),
        MailState.BOUNCED: returned,
        MailState.FAILED: unknown | full,
        MailState.DEFERRED: refused,
    }
    received = Counter((mail.recipients[0], mail.message_id) for mail in smtp.received)
    assert received.keys() == {(email, ledger[email].message_id) for email in accepted}
    # A mail that was on the way when its worker was killed may be sent again, with the same Message-ID.
    uncertain = {email for email, mail in ledger.items() if mail.uncertain_count}
    doubled = {email for (email, _), times in received.items() if times > 1}
    assert doubled <= (uncertain if if_uncertain == "resend" else set())
    assert max(received.values()) <= 3
    assert bool(undecided) == (if_uncertain == "hold")
    assert all(ledger[email].attempts > 1 for email in full | late)

    sources = {row.email: row.source for row in session.scalars(sa.select(EmailSuppression))}
    assert sources == dict.fromkeys(unknown, SuppressionSource.SMTP) | dict.fromkeys(returned, SuppressionSource.BOUNCE)
    (hold,) = held_domains()
    assert (hold.domain, "5.7.26" in hold.last_reply) == (REFUSING, True)
    # The refusals in a row, one of each thread that was sending at that moment, and those of killed workers.
    refusals = len(smtp.refused)
    assert refusals <= MAX_REFUSALS + 4 * THREADS + len(uncertain & refused)
    assert counts([notification.id])[notification.id] == {
        "mail": {
            "delivered": len(accepted - returned - held_back),
            "bounced": len(returned),
            "failed": len(unknown | full | held_back),
            "deferred": len(refused),
        }
    }
    assert get(notification.id).state is NotificationState.SENDING
    session.rollback()

    # When the domain accepts mail again, each of its mails is sent once.
    smtp.mend(refusal)
    lift_hold(REFUSING)
    wait_until(lambda: not live_mails(session), seconds=PATIENCE_SECONDS, every=0.1)
    wait_until(lambda: is_finished(session, notification))
    assert len([mail for mail in smtp.received if mail.recipients[0] in refused]) == len(refused)
    session.expire_all()
    assert by_state(mails())[MailState.SENT] == accepted - returned - held_back | refused
    assert held_domains() == []
    sys.stdout.write(
        f"\n{PEOPLE} mails ({if_uncertain}): {took_seconds:.1f} s, {len(accepted)} accepted, {len(doubled)} doubled"
        f" of {len(uncertain)} uncertain, 0 lost, {len(sources)} suppressed, {len(refused)} held after {refusals}"
        f" refusals, {len(returned)} bounced, {smtp.connections} connections\n"
    )


def live_mails(session: Session) -> Counter[JobState]:
    """Return the numbers of the jobs of mails that have not ended, by state."""
    query = sa.select(JobRecord.state).where(JobRecord.name == "mail.deliver", JobRecord.state.in_(LIVE))
    found = Counter(session.scalars(query))
    session.rollback()
    return found


def emails_of(session: Session, user_ids: Collection[int]) -> list[str]:
    """Return the email addresses of users, in the order of their ids."""
    return list(session.scalars(sa.select(User.email).where(User.id.in_(user_ids)).order_by(User.id)))


def by_state(ledger: Collection[EmailMessage]) -> dict[MailState, set[str | None]]:
    """Return the recipients of mails by their states."""
    found: defaultdict[MailState, set[str | None]] = defaultdict(set)
    for mail in ledger:
        found[mail.state].add(mail.recipient)
    return found


def is_finished(session: Session, notification: Notification) -> bool:
    """Return whether a notification has been sent."""
    session.rollback()
    state = session.scalars(sa.select(Notification.state).where(Notification.id == notification.id)).one()
    session.rollback()
    return state is NotificationState.FINISHED


# ── Push ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@ON_SQLITE
def test_a_bulk_of_push_messages_through_a_server_that_refuses_a_part(
    app: Flask, session: Session, fcm_server: FcmServer, processes: Processes
) -> None:
    ids = insert_members(PEOPLE)
    first = {id: f"first-{id}" for id in ids}
    second = {id: f"second-{id}" for id in ids[5::10]}
    insert_devices([*first.items(), *second.items()])
    tokens = {*first.values(), *second.values()}
    without, with_one_left = ids[0::100], ids[15::100]
    gone = {first[id] for id in without} | {second[id] for id in with_one_left}
    busy = {first[id] for id in ids[3::20]} | {second[id] for id in ids[25::100]}
    for token in gone:
        fcm_server.fail(token, fcm.UNREGISTERED)
    for token in busy:
        fcm_server.fail(token, fcm.Fault(503, fcm.UNAVAILABLE.body, {"Retry-After": "1"}), times=1)
    processes.scheduler(**WORKERS)
    began_at = time.monotonic()
    notification = sent(channels=("push",))
    in_flight = list[set[str]]()
    for share in (5, 2):
        worker = processes.worker(**WORKERS)
        fcm_server.wait_for(PEOPLE // share, PATIENCE_SECONDS)
        signal_tree(worker, signal.SIGKILL)
        # The server has read all that the worker had sent.
        wait_until(lambda: fcm_server.open_connections == 0)
        in_flight.append(open_tokens(session) & set(fcm_server.tokens()))
    processes.worker(**WORKERS)
    # What the killed worker had sent has been answered by then.
    fcm_server.wait_for(PEOPLE * 6 // 10, PATIENCE_SECONDS)
    fcm_server.fail(None, fcm.throttled("2"), times=1)
    wait_until(lambda: count(session, JobPause) == 1, seconds=PATIENCE_SECONDS)
    wait_until(lambda: is_finished(session, notification), seconds=PATIENCE_SECONDS, every=0.1)
    took_seconds = time.monotonic() - began_at

    # Each device that may get the message gets it, and what FCM does not know is forgotten.
    accepted = Counter(fcm_server.tokens())
    assert accepted.keys() == tokens - gone
    assert set(session.scalars(sa.select(Device.token))) == tokens - gone
    assert counts([notification.id])[notification.id] == {
        "push": {"delivered": PEOPLE - len(without), "skipped": len(without)}
    }
    # Repeated is only what was on the way at a kill, and it replaces the first message on the device.
    allowed = Counter(token for tokens_in_flight in in_flight for token in tokens_in_flight)
    repeated = accepted - Counter(accepted.keys())
    assert repeated - allowed == Counter()
    key = notification.id.replace("-", "")
    assert {message["android"]["collapse_key"] for message in fcm_server.accepted} == {key}
    assert {message["apns"]["headers"]["apns-collapse-id"] for message in fcm_server.accepted} == {key}
    sys.stdout.write(
        f"\n{PEOPLE} people with {len(tokens)} devices: {took_seconds:.1f} s, {len(accepted)} devices reached,"
        f" {sum(repeated.values())} repeated of {sum(allowed.values())} in flight, 0 lost, {len(gone)} forgotten,"
        f" {fcm_server.requests} requests\n"
    )


def open_tokens(session: Session) -> set[str]:
    """Return the tokens of the devices that are not recorded as having got the message."""
    is_open = NotificationDelivery.state.in_((DeliveryState.QUEUED, DeliveryState.DEFERRED))
    query = sa.select(Device.token).join(NotificationDelivery, NotificationDelivery.user_id == Device.user_id)
    found = set(session.scalars(query.where(is_open)))
    query = sa.select(NotificationDelivery.remaining_devices)
    remaining = session.scalars(query.where(NotificationDelivery.remaining_devices.is_not(None)))
    ids = [id for each in remaining if each for id in each]
    found.update(session.scalars(sa.select(Device.token).where(Device.id.in_(ids))))
    session.rollback()
    return found
