"""`/metrics`: what it shows, to whom, and how little it reads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.defaults import VERSION
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import MailDomainHold, MailTotals
from flask_belfry.outbox import Deployment, JobRecord, WorkerProcess, enqueue
from flask_belfry.statistics import FailureGroup, FailureState, JobTotals, QueueSample, Release, RollUp
from tests.conftest import make_app
from tests.reservation_factories import make_school

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TOKEN = "a-token-of-prometheus"


def read(client: FlaskClient) -> dict[str, dict[tuple[str, ...], float]]:
    """The values by the name of the sample, and by the values of its labels in the order of their names."""
    answer = client.get("/metrics")
    assert (answer.status_code, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[values_of(sample)] = sample.value
    return found


def values_of(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.labels[name] for name in sorted(sample.labels))


def test_the_totals_of_jobs_and_mails_are_counters_and_histograms(client, session):
    session.add_all(
        [
            JobTotals(name="test.greet", queue="bulk", completed=9, failed=2, attempts=4, wait_0=1, wait_3=2, run_14=3),
            JobTotals(name="no.longer_there", queue="bulk", completed=1),
            MailTotals(kind="confirmation", sent=5, failed=1),
            RollUp(name="jobs", complete_until=utc_now()),
        ]
    )
    session.commit()
    found = read(client)
    finished = found["belfry_jobs_finished_total"]
    assert {key: value for key, value in finished.items() if key[0] == "test.greet" and value} == {
        ("test.greet", "completed", "bulk"): 9,
        ("test.greet", "failed", "bulk"): 2,
    }
    assert finished["test.greet", "failed", "default"] == 0, "a series exists before the first failure"
    assert not any(key[0] == "no.longer_there" for key in finished), "a job that the code does not have"
    assert found["belfry_job_attempts_failed_total"]["test.greet", "bulk"] == 4
    wait = {key[0]: value for key, value in found["belfry_job_wait_seconds_bucket"].items()}
    assert (wait["0.005"], wait["0.05"], wait["0.1"], wait["+Inf"]) == (1, 1, 3, 3)
    assert found["belfry_job_run_seconds_count"] == {("test.greet", "bulk"): 3}
    mails = [found["belfry_mails_total"][event, "confirmation"] for event in ("sent", "failed", "bounced")]
    assert mails == [5, 1, 0]
    assert found["belfry_statistics_complete_timestamp_seconds"]["jobs",] > 0


def test_the_state_of_queues_processes_failures_domains_and_releases_is_shown_as_it_is_now(client, session):
    now = utc_now()
    old, oldest = now - timedelta(seconds=90), now - timedelta(minutes=3)
    session.add_all(
        [
            QueueSample(at=oldest, queue="mail", waiting=99, running=9, scheduled=9, blocked=9),
            QueueSample(at=now, queue="mail", waiting=7, running=3, scheduled=2, blocked=1, oldest_at=old),
            QueueSample(at=now, queue="heavy", waiting=0, running=0, scheduled=0, blocked=0),
            WorkerProcess(name="one", kind="light", host="here", pid=1, memory_bytes=100),
            WorkerProcess(name="two", kind="light", host="here", pid=2, memory_bytes=50),
            WorkerProcess(name="dead", kind="heavy", host="here", pid=3, heartbeat_at=now - timedelta(hours=1)),
            WorkerProcess(name="stopped", kind="light", host="here", pid=4, stopped_at=now),
            MailDomainHold(domain="mx.example", last_reply="550 no", held_since=now),
            MailDomainHold(domain="fine.example", last_reply="450 later"),
            Release(name="2026.11.30", first_seen_at=now),
            *(
                FailureGroup(
                    school_id=school_id,
                    fingerprint="f",
                    job_name="test.greet",
                    error_type="ValueError",
                    job_id="0" * 32,
                    state=state,
                    first_seen_at=now,
                    last_seen_at=now,
                )
                for school_id, state in enumerate((FailureState.NEW, FailureState.NEW, FailureState.REGRESSED))
            ),
        ]
    )
    session.commit()
    enqueue("test.greet", ticket_id=1)
    session.commit()
    session.execute(sa.update(JobRecord).values(state="pending", created_at=old))
    session.execute(sa.update(Deployment).values(scheduler_passed_at=now))
    session.commit()
    found = read(client)
    states = found["belfry_queue_jobs"]
    mail = [states["mail", state] for state in ("waiting", "running", "scheduled", "blocked")]
    assert (mail, len(states)) == ([7, 3, 2, 1], 8)
    assert found["belfry_queue_oldest_age_seconds"]["heavy",] == 0
    assert 90 <= found["belfry_queue_oldest_age_seconds"]["mail",] < 150
    assert 90 <= found["belfry_outbox_lag_seconds"][()] < 150
    assert found["belfry_workers"] == {("light",): 2, ("heavy",): 0, ("scheduler",): 0}
    assert found["belfry_workers_memory_bytes"] == {("light",): 150}
    assert abs(found["belfry_scheduler_last_pass_timestamp_seconds"][()] - now.timestamp()) < 1
    assert found["belfry_mail_held_domains"] == {(): 1}
    groups = {key[0]: value for key, value in found["belfry_failure_groups"].items()}
    assert groups == {"new": 2, "seen": 0, "ignored": 0, "resolved": 0, "regressed": 1}
    assert found["belfry_release_info"] == {(VERSION,): 1}
    assert found["belfry_release_first_seen_timestamp_seconds"].keys() == {("2026.11.30",)}


@ONCE
def test_an_old_sample_of_a_queue_is_not_shown(client, session):
    session.add(
        QueueSample(at=utc_now() - timedelta(minutes=6), queue="mail", waiting=1, running=0, scheduled=0, blocked=0)
    )
    session.commit()
    assert "belfry_queue_jobs" not in read(client)


@ONCE
def test_no_label_names_a_school_a_person_or_a_job(client, session):
    make_school().name = "Zarathustra"
    id = enqueue("test.greet", ticket_id=1)
    session.add(MailDomainHold(domain="zarathustra.example", last_reply="550 no", held_since=utc_now()))
    session.commit()
    text = client.get("/metrics").text.lower()
    assert "zarathustra" not in text
    assert id not in text


@ONCE
def test_the_number_of_statements_does_not_grow_with_what_they_read(client, session, statements):
    session.add_all([JobTotals(name="test.greet", queue=queue) for queue in ("mail", "default", "bulk")])
    session.commit()
    client.get("/metrics")
    del statements[:]
    client.get("/metrics")
    assert len([text for text in statements if text.startswith("SELECT")]) <= 9


@ONCE
def test_of_the_history_only_the_oldest_pending_job_is_read(client, session, statements):
    client.get("/metrics")
    read = [text for text in statements if "job_records" in text or "job_attempts" in text or "email_messages" in text]
    (text,) = read
    plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("pending", 1, 0)[: text.count("?")])
    (detail,) = [row[-1] for row in plan]
    assert detail.startswith("SEARCH job_records USING INDEX ix_job_records_state_id (state=?)")


# ── Access ───────────────────────────────────────────────────────────────────────────────────────────────────────


@ONCE
@pytest.mark.parametrize(
    ("client_address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("203.0.113.7", {}, 403),
        ("10.0.0.7", {}, 403),
        ("", {}, 403),
        # Of a proxy on this machine that the settings do not name.
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.7"}, 403),
        ("127.0.0.1", {"Forwarded": "for=203.0.113.7"}, 403),
    ],
)
def test_without_a_token_only_this_machine_may_read_them(client, client_address, headers, status):
    answer = client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": client_address})
    assert answer.status_code == status
    assert ("belfry_workers" in answer.text) is (status == 200)


@ONCE
@pytest.mark.parametrize(
    ("forwarded", "status"), [("203.0.113.7", 403), ("127.0.0.1, 203.0.113.7", 403), ("127.0.0.1", 200), (None, 200)]
)
def test_behind_a_trusted_proxy_its_client_counts(settings: dict[str, Any], tmp_path: Path, forwarded, status):
    client = make_app(settings | {"TRUSTED_PROXIES": "1"}, tmp_path).test_client()
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    answer = client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": "127.0.0.1"})
    assert answer.status_code == status


@ONCE
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer é", 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (None, 401),
    ],
)
def test_with_a_token_it_is_required_from_everywhere(settings: dict[str, Any], tmp_path: Path, authorization, status):
    client = make_app(settings | {"METRICS_TOKEN": TOKEN}, tmp_path).test_client()
    headers = {"Authorization": authorization} if authorization else {}
    for address in ("127.0.0.1", "203.0.113.7"):
        answer = client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": address})
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
