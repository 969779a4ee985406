"""The search of mails, on both databases, and what follows from it: the API, the commands, sending again together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role, issue_personal_token
from app.audit import AuditEntry
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db.columns import new_id
from flask_belfry.mail import EmailMessage, MailRequest, MailState, queries, send_mails, services
from flask_belfry.mail.search import MAILS, parse
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.search import complete, running
from tests.deliveries import CONTEXT, KIND, ask
from tests.reservation_factories import bearer, log_in, make_school, make_user

NOW = datetime(2030, 5, 6, 12, tzinfo=UTC)
JOB, CHANGE = "018f5d6a-0000-7000-8000-000000000001", "018f5d6a-0000-7000-8000-000000000002"
API = "/api/v1/mails"

Found = Callable[..., list[str]]


def at(hours: float) -> datetime:
    """So many hours before now."""
    return NOW - timedelta(hours=hours)


def mail(label: str, state: str = "sent", *, age: float, to: str | None = "bob@example.net", **values: Any) -> Any:
    """A mail, whose key is its label."""
    defaults = {"kind": "notification-general", "message_id": f"<{label}>", "created_at": at(age)}
    recipients = {"recipients": [to] if to else [], "recipient": to}
    return EmailMessage(
        **{"id": new_id(at(age)), "unique_key": label, "state": MailState(state), **recipients, **defaults, **values}
    )


@pytest.fixture
def rows(session: Session) -> None:
    """Mails that differ in what the terms are about."""
    session.add_all(
        [
            mail("failed", "failed", age=1, to="ada@example.org", last_error="451 4.7.1 100% grey_listed"),
            mail("accepted", age=2, reply="250 2.0.0 queued as 7F3A"),
            mail("bounced", "bounced", age=3, to="adam@example.org", kind="reservation-status"),
            mail("skipped", "skipped", age=4, to=None, last_error="not a valid email address", user_id=7),
            mail("of 42", age=5, kind="reservation-new", subject_type="reservation", subject_id="42"),
            mail("of 43", age=6, kind="retired", subject_type="reservation", subject_id="43", school_id=1),
            mail("of a job", age=7, job_id=JOB),
            mail("of a change", age=8, change_id=CHANGE, school_id=2),
        ]
    )
    session.commit()


ALL = ["failed", "accepted", "bounced", "skipped", "of 42", "of 43", "of a job", "of a change"]


@pytest.fixture
def found(app: Flask, session: Session) -> Found:
    """Returns the keys of the mails that a search finds, newest first."""

    def search(text: str, given: Any = None, **options: Any) -> list[str]:
        return [row.unique_key for row in queries.find_mails(parse(text, given, now=NOW), **options).items]

    return search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL),
        ("state:failed", ["failed"]),
        ("state:failed,bounced", ["failed", "bounced"]),
        ("-state:sent", ["failed", "bounced", "skipped"]),
        ("kind:reservation-new", ["of 42"]),
        ("kind:reservation-*", ["bounced", "of 42"]),
        ("kind:re*", ["bounced", "of 42", "of 43"]),
        ("kind:none*", []),
        ("-kind:notification-*", ["bounced", "of 42", "of 43"]),
        ("to:ADA@Example.org", ["failed"]),
        ("to:*@example.org", ["failed", "bounced"]),
        ("-to:*@example.org state:sent,failed", ["accepted", "of 42", "of 43", "of a job", "of a change"]),
        ("subject:reservation/42", ["of 42"]),
        ("subject:Reservation/42", ["of 42"]),
        ("subject:reservation", ["of 42", "of 43"]),
        ("error:grey_list", ["failed"]),
        ("error:greyXlist", []),
        ("reply:7f3a", ["accepted"]),
        ('key:"of 42"', ["of 42"]),
        ('key:"of 4*"', ["of 42", "of 43"]),
        ("tenant:1", ["of 43"]),
        ("tenant:1,2", ["of 43", "of a change"]),
        ("user:7", ["skipped"]),
        (f"job:{JOB}", ["of a job"]),
        (f"change:{CHANGE}", ["of a change"]),
        ("since:150m", ["failed", "accepted"]),
        ("until:390m", ["of a job", "of a change"]),
        ("since:2030-05-06T05:00 kind:re*", ["bounced", "of 42", "of 43"]),
        ("ada@example.org", ["failed"]),  # a whole email address: of the recipient
        ("ada", ["failed", "bounced"]),
        ("reserv", ["bounced", "of 42"]),
        ('"of a"', ["of a job", "of a change"]),
        ('"100%"', ["failed"]),
        ("-valid state:skipped,failed", ["failed"]),
    ],
)
def test_a_search_finds_the_mails_that_match(rows: None, found: Found, text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_the_parameters_of_a_request_are_terms(rows: None, found: Found) -> None:
    assert found("to:*@example.org", {"state": "bounced", "text": "ada", "since": at(4), "kind": None}) == ["bounced"]
    with pytest.raises(InvalidInputError, match="state:failed is invalid: give state either"):
        parse("state:sent", {"state": "failed"}, now=NOW)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("state:gone", "one of queued, sending"),
        ("recipient:ada", "the keys are state, kind, to"),
        ("job:42", "the id of its job"),
        ("user:ada", "the number of the user"),
        ("since:soon", "an age such as 30m"),
        ('"open', "a quote must be closed"),
    ],
)
def test_an_invalid_term_is_named_with_what_is_valid(app: Flask, text: str, problem: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse(text, now=NOW)
    assert problem in raised.value.message
    assert list(raised.value.fields) == ["q"]


def test_what_no_index_has_is_compared_in_windows_until_all_is(
    rows: None, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW", 3)
    query, seen, cursor = parse("to:*@example.net", now=NOW), [], None
    for _ in range(len(ALL)):
        page = queries.find_mails(query, cursor=cursor)
        seen += [row.unique_key for row in page.items]
        if (cursor := page.next_cursor) is None:
            break
        assert page.searched_to is not None
    assert seen == ["accepted", "of 42", "of 43", "of a job", "of a change"]
    assert cursor is None


def test_counts_are_bounded(rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert queries.count(parse("state:sent", now=NOW)) == (5, False)
    counts = queries.counts_by_state()
    assert (counts["sent"], counts["failed"], counts["queued"]) == (5, 1, 0)
    monkeypatch.setattr(queries, "COUNT_LIMIT", 2)
    assert queries.count(parse("state:sent", now=NOW)) == (2, True)
    assert queries.counts_by_state()["sent"] == 2


def test_a_search_is_completed(app: Flask) -> None:
    assert "kind:reservation-status" in complete(MAILS, "kind:reservation-s")
    assert complete(MAILS, "state:sent sta") == ["state:sent state:"]


# ── Sending again together ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def failed(app: Flask, session: Session) -> list[str]:
    """Three mails that failed with their jobs, of which the last has no job any more."""
    names = ("ada", "bob", "cleo")
    ids = [new_id(at(3 - number)) for number in range(3)]
    requests = zip(names, ids, strict=True)
    send_mails(KIND, [MailRequest([f"{name}@example.org"], name, CONTEXT, id=id) for name, id in requests])
    session.flush()
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.execute(sa.update(EmailMessage).values(state=MailState.FAILED, last_error="451 no"))
    session.execute(sa.delete(JobRecord).where(JobRecord.id == queries.get_mail(ids[2]).job_id))
    session.commit()
    return ids


def states(session: Session) -> list[str]:
    session.expire_all()
    return [row.state.value for row in session.scalars(sa.select(EmailMessage).order_by(EmailMessage.id))]


def test_failed_mails_that_match_are_sent_again_and_recorded_once(
    app: Flask, session: Session, failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sent,) = ask(session, "dan")
    session.execute(sa.update(EmailMessage).where(EmailMessage.id == sent).values(state=MailState.SENT))
    session.commit()
    monkeypatch.setattr(services, "MAX_RESENT", 2)
    first, after = services.resend_matching(parse("kind:test-message", now=NOW))
    assert (first, after) == (set(failed[:2]), failed[1])
    second, after = services.resend_matching(parse("kind:test-message", now=NOW), after)
    assert (second, after) == ({failed[2]}, None)
    session.commit()
    assert states(session) == ["sent", "queued", "queued", "queued"]
    recorded = session.scalars(sa.select(AuditEntry.subject_id).where(AuditEntry.action == "mail.resend"))
    assert sorted(map(str, recorded)) == sorted(failed)
    with pytest.raises(InvalidInputError, match="not sent again together"):
        services.resend_matching(parse("state:sent", now=NOW))


def test_the_page_sends_again_what_it_lists(client: FlaskClient, session: Session, failed: list[str]) -> None:
    admin = log_in(client, make_user(Role.ADMIN))
    assert "/mails/resend" not in admin.get("/mails").text
    page = admin.get("/mails?q=to:*@example.org").text
    assert "3 mails match." in page
    assert 'name="q" value="state:failed to:*@example.org"' in page or "to:*@example.org state:failed" in page
    done = admin.post("/mails/resend", data={"q": "to:*@example.org -to:bob*"}, follow_redirects=True)
    assert "2 mails are enqueued again." in done.text
    assert states(session) == ["queued", "failed", "queued"]
    refused = admin.post("/mails/resend", data={"q": "state:sent"}, follow_redirects=True)
    assert "not sent again together" in refused.text
    assert "The term x:y is invalid" in admin.post("/mails/resend", data={"q": "x:y"}, follow_redirects=True).text


def test_an_invalid_search_is_explained_on_the_page(client: FlaskClient) -> None:
    admin = log_in(client, make_user(Role.ADMIN))
    answer = admin.get("/mails?q=state:gone")
    assert answer.status_code == 422
    assert "one of queued, sending" in answer.text
    assert admin.get("/mails?q=state:gone", headers={"HX-Request": "true"}).status_code == 200
    assert "kind:test-message" in admin.get("/mails/completions?q=kind:test").text


def test_the_command_lists_and_sends_again_what_matches(app: Flask, session: Session, failed: list[str]) -> None:
    def run(*arguments: str) -> Any:
        return app.test_cli_runner().invoke(args=["mail", *arguments])

    assert run("list", "to:*@example.org -to:bob*").stdout.count("\n") == 2
    refused = run("list", "state:gone")
    assert (refused.exit_code, refused.stderr.count("\n"), refused.stdout) == (1, 1, "")
    assert run("resend").exit_code == run("resend", failed[0], "--filter", "x").exit_code == 2
    assert "The search is empty." in run("resend", "--filter", " ").stderr
    assert run("resend", "--filter", "to:*@example.org").stdout == "3 enqueued again\n"
    assert states(session) == ["queued", "queued", "queued"]


# ── The API ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_api_lists_shows_and_sends_again(client: FlaskClient, session: Session, failed: list[str]) -> None:
    headers = bearer(make_user(Role.ADMIN))
    listed = client.get(f"{API}?q=to:*@example.org&state=failed&limit=2", headers=headers).json
    assert [item["id"] for item in listed["items"]] == failed[:0:-1]
    assert listed["searched_to"] is None
    following = client.get(f"{API}?state=failed&limit=2&cursor={listed['next_cursor']}", headers=headers).json
    assert [item["id"] for item in following["items"]] == failed[:1]
    shown = client.get(f"{API}/{failed[0]}", headers=headers).json
    assert shown == following["items"][0]
    assert (shown["recipients"], shown["state"], shown["last_error"]) == (["ada@example.org"], "failed", "451 no")
    again = client.post(f"{API}/{failed[0]}/resend", headers=headers)
    assert (again.status_code, again.json["state"]) == (200, "queued")
    assert client.post(f"{API}/{failed[0]}/resend", headers=headers).status_code == 409
    rest = client.post(f"{API}/resend", json={"kind": "test-*"}, headers=headers)
    assert (rest.status_code, rest.json) == (200, {"resent": 2, "next_cursor": None})
    for parameter in ("q=x:y", "state=gone", "to=a%00b", "unknown=1"):
        assert client.get(f"{API}?{parameter}", headers=headers).status_code == 422, parameter
    for refused in ({"state": "sent"}, {}, {"q": " "}):
        assert client.post(f"{API}/resend", json=refused, headers=headers).status_code == 422, refused


def test_scopes_and_the_permission_restrict_the_api(client: FlaskClient, session: Session, failed: list[str]) -> None:
    school = make_school()
    session.execute(sa.update(EmailMessage).values(school_id=school.id))
    operator = make_user(Role.STAFF, school_id=school.id)
    reader = make_user(Role.STAFF, school_id=school.id, may_operate=False)
    for user, scopes, codes in (
        (operator, ["mails:write"], (200, 200)),
        (operator, ["mails:read"], (200, 403)),
        (operator, ["jobs:write"], (403, 403)),
        (reader, ["mails:write"], (200, 403)),
    ):
        token, _ = issue_personal_token(user, "script", scopes)
        session.commit()
        headers = {"Authorization": f"Bearer {token}"}
        listed = client.get(f"{API}?kind=test-message", headers=headers)
        resent = client.post(f"{API}/resend", json={"kind": "test-message"}, headers=headers)
        assert (listed.status_code, resent.status_code) == codes, (user.may_operate, scopes)
