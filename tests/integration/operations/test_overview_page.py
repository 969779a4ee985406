"""The overview of operations: its figures are those of the rows, its problems come and go, a school sees its own."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from flask_belfry import live
from flask_belfry.changes.host import CheckError
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id
from flask_belfry.mail.models import EmailMessage, MailDomainHold, MailState, MailStatistics
from flask_belfry.operations import overview_views, problems
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess, enqueue
from flask_belfry.statistics import ALL_ID, JobStatistics, QueueSample, Release, Resolution
from flask_belfry.statistics.histograms import BUCKETS
from flask_belfry.statistics.times import minute_of
from tests.reservation_factories import log_in, make_school, make_user
from tests.servers import wait_until

pytestmark = [pytest.mark.usefixtures("client"), pytest.mark.usefixtures("prompt")]
PAGE = "/operations"
ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page waits for the first results of all checks but those on the network."""
    monkeypatch.setattr(problems, "PAGE_WAIT_SECONDS", 60)
    monkeypatch.setattr(problems, "LIMIT_SECONDS", 60)


@pytest.fixture
def admin(app: Flask, client: FlaskClient) -> FlaskClient:
    app.config["MAIL_ENABLED"] = False
    return log_in(client, make_user(Role.ADMIN, time_zone="Europe/Berlin"))


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


def section(page: str, id: str) -> str:
    found = re.search(rf'aria-labelledby="{id}-title".*?</section>', page, re.DOTALL)
    assert found, id
    return words(found[0])


def statistics(session: Session, at: datetime, school_id: int = ALL_ID, **values: Any) -> None:
    """Count jobs in a minute."""
    buckets = {f"{times}_{number}": 0 for times in ("wait", "run") for number in range(BUCKETS)}
    key = {"resolution": Resolution.MINUTE, "at": minute_of(at), "school_id": school_id, "name": "test.act"}
    counts = {"queue": "default", "completed": 0, "failed": 0, "cancelled": 0, "attempts": 0}
    session.execute(sa.insert(JobStatistics), [key | counts | buckets | values])
    session.commit()


def mail_statistics(session: Session, at: datetime, kind: str, school_id: int = ALL_ID, **values: int) -> None:
    """Count mails in a minute."""
    key = {"resolution": Resolution.MINUTE, "at": minute_of(at), "school_id": school_id, "kind": kind}
    counts = dict.fromkeys(("accepted", "sent", "deferred", "failed", "bounced", "skipped"), 0)
    session.execute(sa.insert(MailStatistics), [key | counts | values])
    session.commit()


def checked_again(app: Flask, client: FlaskClient) -> str:
    """The page with the results of checks that run now."""
    app.extensions.pop("problem_checks", None)
    return client.get(PAGE).text


def problems_on(page: str) -> list[str]:
    return re.findall(r'id="problem-([^"]+)"', page)


def test_the_figures_are_those_of_the_rows_in_the_chosen_time(admin: FlaskClient, session: Session):
    now = utc_now()
    statistics(session, now, completed=1_500, failed=2, attempts=5, wait_2=1_502, run_6=1_502)
    statistics(session, now - timedelta(minutes=90), completed=7, name="test.mark")
    mail_statistics(session, now, "reservation-new", accepted=40, sent=36, deferred=3, failed=1, bounced=1)
    page = admin.get(PAGE).text
    assert "Completed 1,500 Failed 2 Failed attempts 5" in words(page)
    # Percentiles within the buckets up to 50 ms and 1 s.
    assert "test.act default 1,500 2 5 35 ms 48 ms 50 ms 750 ms 975 ms 995 ms" in section(page, "jobs")
    assert "test.mark" not in page
    mails = section(page, "mails")
    assert all(text in mails for text in ("Accepted enqueued 40", "server 36", "again 3", "permanently 1", "sent 1"))
    day = admin.get(f"{PAGE}?span=24h").text
    assert "Completed 1,507 Failed 2" in words(day)
    assert "test.mark" in section(day, "jobs")


@ONCE
def test_a_chart_has_the_values_as_text_too(admin: FlaskClient, session: Session):
    at = minute_of(utc_now()) - timedelta(minutes=10)
    statistics(session, at, completed=12, failed=3)
    session.add(Release(name="2026.11.3", first_seen_at=at))
    session.commit()
    page = admin.get(PAGE).text
    figure = re.search(r'<figure class="chart" id="chart-throughput".*?</figure>', page, re.DOTALL)
    assert figure
    assert re.search(r"<desc[^>]*>Completed: at most 12, last 0; Failed: at most 3, last 0\.</desc>", figure[0])
    clock = f"{at.astimezone(ZoneInfo('Europe/Berlin')):%H:%M}"
    assert f"From Completed Failed {clock} 12 3" in words(figure[0])
    assert f"Deploy 2026.11.3, {clock}" in words(figure[0])
    assert figure[0].count('class="chart-mark"') == 1
    assert "style=" not in figure[0]


@ONCE
def test_queues_processes_and_the_outbox_are_shown(admin: FlaskClient, session: Session):
    now = utc_now()
    counts = {"running": 2, "scheduled": 0, "blocked": 0}
    session.add(QueueSample(at=now, queue="mail", waiting=1_234, oldest_at=now - timedelta(minutes=3), **counts))
    session.add(QueueSample(at=now, queue="bulk", waiting=0, oldest_at=None, **counts))
    for number in range(3):
        session.add(
            WorkerProcess(name=f"w{number}", kind="light", host="here", pid=number, queues="mail,bulk", release="7")
        )
    enqueue("test.echo")
    session.commit()
    session.execute(sa.update(JobRecord).values(created_at=now - timedelta(minutes=2)))
    session.commit()
    page = admin.get(PAGE).text
    assert "mail 1,234 3 min ago 2" in section(page, "queues")
    assert "Waiting now 1,234" in words(page)
    assert re.search(r"Outbox lag 2 min \d\d s", words(page))
    assert "3 light workers here · mail, bulk 7" in section(page, "workers")


@ONCE
def test_problems_are_shown_with_their_remedy_and_go_when_they_are_solved(
    app: Flask, admin: FlaskClient, session: Session
):
    page = checked_again(app, admin)
    assert problems_on(page) == ["light-workers", "heavy-workers", "scheduler"]
    assert "No worker serves mail , default , bulk Start python cli.py jobs worker" in words(page)
    now = utc_now()
    session.add_all(
        [
            WorkerProcess(name="l", kind="light", host="h", pid=1, queues="mail,default,bulk"),
            WorkerProcess(name="h", kind="heavy", host="h", pid=2, queues="heavy"),
            WorkerProcess(name="s", kind="scheduler", host="h", pid=3, heartbeat_at=now - timedelta(seconds=40)),
            MailDomainHold(domain="gmail.com", last_reply="550 5.7.26 DMARC", held_since=now, held_until=now),
        ]
    )
    for _ in range(12):
        failed = {"state": JobState.FAILED, "finished_at": now, "error_type": "ConnectionRefusedError"}
        session.add(JobRecord(name="test.act", queue="default", args={}, timeout_seconds=9, **failed))
    session.commit()
    page = words(checked_again(app, admin))
    assert re.search(r"Scheduler silent for 4\d s", page)
    assert re.search(r"12 jobs failed with ConnectionRefusedError since \d\d:\d\d", page)
    assert "gmail.com refuses our mail: DMARC since" in page
    yesterday = now - timedelta(hours=23)
    session.execute(sa.update(JobRecord).values(finished_at=yesterday))
    session.commit()
    local = yesterday.astimezone(ZoneInfo("Europe/Berlin"))
    is_today = local.date() == now.astimezone(ZoneInfo("Europe/Berlin")).date()
    shown = f"{local:%H:%M}" if is_today else f"{local.day} {local:%b}, {local:%H:%M}"
    assert f"ConnectionRefusedError since {shown}" in words(checked_again(app, admin))
    session.execute(sa.delete(MailDomainHold))
    session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED))
    session.execute(sa.update(WorkerProcess).values(heartbeat_at=utc_now()))
    session.commit()
    # The scheduler of this test makes no passes.
    assert problems_on(checked_again(app, admin)) == ["scheduler"]


@ONCE
def test_every_problem_links_to_a_page(app: Flask, admin: FlaskClient, session: Session):
    urls = {each.url for each in problems.check_all(app) if each.url} | {"/jobs/?state=failed", "/mails/suppressions"}
    assert [admin.get(url).status_code for url in urls] == [200] * len(urls)


@ONCE
def test_the_figures_of_accounts_are_compared_with_their_targets(admin: FlaskClient, session: Session):
    page = admin.get(PAGE).text
    assert "Registration time from the registration until its mail is sent, p95 – under 1 min" in section(
        page, "figures"
    )
    now = utc_now()
    mail_statistics(session, now, "confirmation", accepted=100, sent=96, deferred=20, failed=4)
    mail_statistics(session, now, "reservation-new", accepted=100, failed=100)
    for seconds in (2, 90):
        sent = {"created_at": now - timedelta(seconds=seconds), "sent_at": now, "state": MailState.SENT}
        mail = {"kind": "confirmation", "recipients": ["a@example.org"], "message_id": "<a@b>", "unique_key": new_id()}
        session.add(EmailMessage(**mail, **sent))
    session.commit()
    figures = section(admin.get(PAGE).text, "figures")
    assert "p95 missed: 1 min 30 s under 1 min" in figures
    assert "did not bounce met: 96.0 % over 95 %" in figures
    assert "tried again missed: 16.7 % under 10 %" in figures
    assert "failed or bounced missed: 4 (4.0 %) near 0" in figures


@ONCE
def test_staff_see_the_figures_of_their_school_only(app: Flask, session: Session):
    school, other = make_school(), make_school()
    now = utc_now()
    statistics(session, now, completed=100)
    statistics(session, now, school.id, completed=3)
    statistics(session, now, other.id, completed=97, name="test.mark")
    mail_statistics(session, now, "reservation-new", other.id, sent=5)
    failed = {
        "state": JobState.FAILED,
        "finished_at": now,
        "error_type": "ValueError",
        "args": {},
        "timeout_seconds": 9,
    }
    session.add(JobRecord(name="test.act", queue="default", school_id=other.id, **failed))
    session.commit()
    for path in (PAGE, f"{PAGE}/live"):
        staff = log_in(app.test_client(), make_user(Role.STAFF, school_id=school.id))
        page = staff.get(path).text
        assert "Completed 3 Failed 0 Failed attempts 0 Mails sent 0" in words(page)
        assert "test.mark" not in page
        assert "No problems" in page
        assert not re.search(r'id="(queues|workers|figures)-title"', page)
    assert "problem" not in staff.get("/").text
    staff = log_in(app.test_client(), make_user(Role.STAFF, school_id=other.id))
    assert problems_on(staff.get(PAGE).text) == ["jobs"]
    assert "1 problem with jobs, mail or processes. Show it" in words(staff.get("/").text)


@ONCE
def test_the_start_page_has_the_number_of_problems_and_runs_no_check_for_it(
    app: Flask, admin: FlaskClient, monkeypatch: pytest.MonkeyPatch
):
    checked: list[Flask] = []

    def broken(app: Flask) -> str:
        checked.append(app)
        raise CheckError("it is broken")

    tasks = [problems._Task(part, broken) for part in ("jobs", "schedule")]
    monkeypatch.setattr(
        problems, "_tasks", lambda _: [*tasks, problems._Task("settings", lambda _: "as they should be")]
    )
    monkeypatch.setattr(problems, "RECENT_SECONDS", 3_600)
    wait_until(lambda: "2 problems with jobs, mail or processes. Show them" in words(admin.get("/").text))
    assert 'href="/operations">Show them' in admin.get("/").text
    assert len(checked) == 2


@ONCE
def test_an_unchanged_overview_is_not_sent_again(admin: FlaskClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overview_views, "KEPT_SECONDS", 0)
    monkeypatch.setattr(live, "CLOCK_SECONDS", 1e12)
    admin.get(f"{PAGE}/live")
    first = admin.get(f"{PAGE}/live")
    again = admin.get(f"{PAGE}/live", headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)


@ONCE
def test_an_empty_installation_says_what_will_be_here(admin: FlaskClient):
    page = admin.get(f"{PAGE}?span=7d").text
    assert "No job ended in the last 7 days" in page
    assert "No job has waited in this time." in page
    assert "No process is running" in page
    assert "Nothing has been counted yet" in page
    assert admin.get(f"{PAGE}?span=nonsense").status_code == 200
