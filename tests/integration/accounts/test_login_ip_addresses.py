"""The first login from an IP address is notified by mail, whose links confirm or deny it: pages, API, real mails."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from threading import Thread

import pytest
import sqlalchemy as sa
import time_machine
from flask.testing import FlaskClient

from app.accounts import AddressState, LoginAddress, Role, User, codes, issue_personal_token, logins, services
from app.accounts import api as accounts_api
from app.accounts.limits import FAILED_LOGINS
from app.accounts.models import AccountCode, CodePurpose
from app.audit import AuditEntry
from app.web.keys import keyed_digest
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, close_connections
from tests.reservation_factories import PASSWORD, bearer, log_in, make_user
from tests.second_factors import set_up_second_factor
from tests.servers import wait_until
from tests.simultaneous import at_once
from tests.smtp import Received

ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
LOGIN, PAGE = "/api/v1/auth/login", "/account/addresses"
SUBJECT, NEW_ADDRESS = "Login from a new IP address", "login-new-address"
NEW_PASSWORD = "another good battery"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
CAFE, HOTEL = "203.0.113.7", "198.51.100.9"


@pytest.fixture
def settings(settings, smtp):
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(smtp.port)}


@pytest.fixture
def app(app):
    yield app
    close_connections()


@pytest.fixture
def mails(smtp, work) -> Callable[[], list[Received]]:
    """The mails that went out since the last look, delivered by a real worker."""

    def look() -> list[Received]:
        before = len(smtp.received)
        work()
        return smtp.received[before:]

    return look


@pytest.fixture
def user() -> User:
    return make_user()


def from_(address: str, user_agent: str = FIREFOX) -> dict[str, dict[str, str]]:
    """What a request from there is made with."""
    return {"environ_base": {"REMOTE_ADDR": address, "HTTP_USER_AGENT": user_agent}}


def by_page(client: FlaskClient, user: User, password: str = PASSWORD, **options) -> bool:
    answer = client.post("/login", data={"login": user.username, "password": password}, **options)
    client.delete_cookie("session")
    return answer.status_code == 302


def by_api(client: FlaskClient, user: User, password: str = PASSWORD, **options) -> bool:
    answer = client.post(LOGIN, json={"username": user.username, "password": password}, **options)
    return answer.status_code == 200


BOTH_WAYS = pytest.mark.parametrize("enter", [by_page, by_api])


def links_in(mail: Received) -> dict[str, str]:
    """The paths of the links, by what they answer."""
    return {
        path.rpartition("/")[2]: path for path in re.findall(r"http://\S+?(/login-address/\S+)", mail.body("plain"))
    }


def told(client: FlaskClient, user: User, address: str = CAFE) -> dict[str, str]:
    """The links of the mail that follows a login from there, as if it had left."""
    assert by_api(client, user, **from_(address))
    return links_of_last_code()


def links_of_last_code() -> dict[str, str]:
    code = db.session.scalars(sa.select(AccountCode).order_by(AccountCode.id.desc()).limit(1)).one()
    codes.start(db.session(), CodePurpose.IP_ADDRESS, [code.id])
    db.session.commit()
    return {answer: f"/login-address/{codes.token_of(code)}/{answer}" for answer in ("trust", "block")}


def state_of(user: User, address: str = CAFE) -> AddressState | None:
    db.session.rollback()
    query = sa.select(LoginAddress.state).where(LoginAddress.user_id == user.id, LoginAddress.network == address)
    return db.session.scalar(query)


def asked_for() -> list[str]:
    """The kinds of the mails in the ledger, in order."""
    db.session.rollback()
    return list(db.session.scalars(sa.select(EmailMessage.kind).order_by(EmailMessage.id)))


def events(prefix: str) -> list[tuple[str, dict[str, str]]]:
    query = sa.select(AuditEntry.action, AuditEntry.details).where(AuditEntry.action.startswith(prefix))
    return [(row.action, row.details) for row in db.session.execute(query.order_by(AuditEntry.id))]


# ── The mail ─────────────────────────────────────────────────────────────────────────────────────────────────────


@ONLY_SQLITE
@BOTH_WAYS
def test_the_first_login_from_an_ip_address_is_notified_and_the_second_is_not(client, mails, enter):
    user = make_user(time_zone="Asia/Tokyo", name="Ada <b>Lovelace</b>")
    with time_machine.travel("2030-01-01T12:34:00Z"):
        assert enter(client, user, **from_(CAFE))
        (mail,) = mails()
        assert enter(client, user, **from_(CAFE))
        assert enter(client, user)
        assert mails() == []
    assert (mail.recipients, mail.message["Subject"]) == ((user.email,), SUBJECT)
    for fact in ("Tue 1 Jan 2030, 21:34 (Asia/Tokyo)", CAFE, "Firefox on Linux", "7 days"):
        assert fact in mail.body("plain")
        assert fact in mail.body("html")
    assert links_in(mail).keys() == {"trust", "block"}
    assert all(path in mail.body("html") for path in links_in(mail).values())
    assert "<b>" not in mail.body("html")
    assert state_of(user) is AddressState.NEW


@ONLY_SQLITE
def test_the_first_login_of_a_user_who_did_not_register_is_from_a_new_ip_address(client, session):
    user = services.create_user(username="ada", email="ada@example.org", password=PASSWORD)
    session.commit()
    assert by_page(client, user)
    assert asked_for() == [NEW_ADDRESS]


@ONLY_SQLITE
@pytest.mark.parametrize("path", ["/register", "/api/v1/auth/register"])
def test_who_registers_is_known_there_and_notified_of_other_ip_addresses_once_confirmed(client, session, path):
    fields = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
    body = {"json": fields} if path.startswith("/api") else {"data": fields}
    assert client.post(path, **body, **from_(CAFE)).status_code in (201, 302)
    user = session.scalars(sa.select(User)).one()
    assert state_of(user) is AddressState.TRUSTED
    # The owner of the mailbox is not known yet.
    assert by_api(client, user, **from_(HOTEL))
    assert state_of(user, HOTEL) is None
    user.confirmed_at = utc_now()
    session.commit()
    assert by_api(client, user, **from_(CAFE))
    assert asked_for() == ["confirmation"]
    assert by_api(client, user, **from_(HOTEL))
    assert asked_for() == ["confirmation", NEW_ADDRESS]


@ONLY_SQLITE
def test_other_requests_than_logins_are_not_notified(client, user, session):
    tokens = client.post(LOGIN, json={"username": user.username, "password": PASSWORD}).json
    refreshed = client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}, **from_(CAFE))
    assert refreshed.status_code == 200
    log_in(client, user)
    change = {"password": PASSWORD, "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    assert client.post("/account/password", data=change, **from_(CAFE)).status_code == 302
    assert not by_api(client, user, "wrong", **from_(CAFE))
    assert asked_for() == ["password-changed"]
    assert state_of(user) is None


def test_of_several_logins_from_one_new_ip_address_at_the_same_time_one_is_notified(app, user):
    body = {"username": user.username, "password": PASSWORD}
    answers = at_once(app, 4, lambda browser: browser.post(LOGIN, json=body, **from_(CAFE)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert asked_for() == [NEW_ADDRESS]


@ONLY_SQLITE
def test_of_ipv6_the_network_of_a_customer_is_one_address_and_shown_in_full(client, user):
    assert by_api(client, user, **from_("2001:db8:1:2::a"))
    assert by_api(client, user, **from_("2001:db8:1:2:ffff::b"))
    assert by_api(client, user, **from_("2001:db8:1:3::a"))
    contexts = db.session.scalars(sa.select(EmailMessage.context).order_by(EmailMessage.id))
    assert [context["address"] for context in contexts] == ["2001:db8:1:2::a", "2001:db8:1:3::a"]


@ONLY_SQLITE
@pytest.mark.parametrize(("proxies", "address"), [("1", CAFE), ("0", "192.0.2.1")])
def test_behind_a_proxy_it_is_the_clients_address(settings, request, proxies, address):
    settings["TRUSTED_PROXIES"] = proxies
    client, user = request.getfixturevalue("client"), make_user()
    forwarded = {"X-Forwarded-For": f"{HOTEL}, {CAFE}"}
    assert by_api(client, user, headers=forwarded, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    (mail,) = request.getfixturevalue("mails")()
    assert re.search(r"IP address: +(\S+)", mail.body("plain"))[1] == address


@ONLY_SQLITE
def test_where_no_address_is_known_nothing_is_noted(client, user):
    assert by_api(client, user, **from_(""))
    assert asked_for() == []
    assert state_of(user, "") is None


@ONLY_SQLITE
def test_nothing_that_a_client_calls_itself_gets_into_a_mail(client, user, mails):
    assert by_api(client, user, **from_(CAFE, "evil.example/login <script>alert(1)</script>" * 20))
    (mail,) = mails()
    assert "Browser:     evil\r\n" in mail.body("plain").replace("\n", "\r\n").replace("\r\r", "\r")
    assert not re.search(r"script|evil\.", mail.body("plain") + mail.body("html"))


# ── The links ────────────────────────────────────────────────────────────────────────────────────────────────────


@ONLY_SQLITE
def test_to_look_at_a_link_does_nothing(client, user, session):
    links = told(client, user)
    headers = bearer(user)
    assert [client.get(path).status_code for path in links.values()] == [200, 200]
    assert state_of(user) is AddressState.NEW
    code = session.scalars(sa.select(AccountCode)).one()
    assert (code.purpose, code.used_at) == (CodePurpose.IP_ADDRESS, None)
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    assert events("user.address") == []


@ONLY_SQLITE
def test_it_was_me_trusts_the_address_and_the_links_are_used(client, user):
    links = told(client, user)
    assert client.post(links["trust"]).status_code == 302
    assert state_of(user) is AddressState.TRUSTED
    for path in links.values():
        for answer in (client.get(path), client.post(path)):
            assert answer.status_code == 410
            assert "This link was already used" in answer.text
    assert state_of(user) is AddressState.TRUSTED
    assert events("user.address") == [("user.address_trusted", {"address": CAFE})]


def test_it_was_not_me_ends_everything_and_starts_a_reset(app, client, user, session, mails):
    browser = log_in(app.test_client(), user)
    headers = bearer(user)
    _, script = issue_personal_token(user, "script", ["read"])
    session.commit()
    assert by_page(client, user, **from_(CAFE))
    _, mail = mails()  # the first is about the token
    links = links_in(mail)

    assert client.post(links["block"]).location == "/login"
    assert state_of(user) is AddressState.BLOCKED
    assert client.get("/api/v1/me", headers=headers).status_code == 401
    session.refresh(script)
    assert script.revoked_at is not None
    assert browser.get("/reservations/").location.startswith("/login")
    assert not by_api(client, user)
    assert events("user.address") == [("user.address_blocked", {"address": CAFE})]

    (mail,) = mails()
    assert mail.message["Subject"] == "Choose a new password"
    path = re.search(r"http://\S+?(/reset-password/\S+)", mail.body("plain"))[1]
    assert client.post(path, data={"password": NEW_PASSWORD}, **from_(CAFE)).location == "/login"
    assert by_api(client, user, NEW_PASSWORD)
    assert not by_api(client, user, NEW_PASSWORD, **from_(CAFE))
    assert not by_page(client, user, NEW_PASSWORD, **from_(CAFE))


@ONLY_SQLITE
@pytest.mark.parametrize("whose", ["intruder", "owner"])
def test_a_second_factor_goes_with_the_intruder_who_set_it_up(app, client, user, session, whose):
    """Else the owner would be shut out, new password or not."""
    intruder = app.test_client()
    if whose == "owner":
        log_in(client, user)
        set_up_second_factor(client)
        links = told_with_code(client, user)
    else:
        links = told(client, user)
        intruder.post("/login", data={"login": user.username, "password": PASSWORD}, **from_(CAFE))
        set_up_second_factor(intruder)
    assert client.post(links["block"]).status_code == 302
    session.refresh(user)
    left = (user.tf_primary_method, user.tf_totp_secret, user.mf_recovery_codes)
    assert (left == (None, None, None)) == (whose == "intruder")


def told_with_code(client: FlaskClient, user: User) -> dict[str, str]:
    """As the fixture above, for a user who needs a code to log in, and has both."""
    code = "a recovery code"
    user.mf_recovery_codes = [keyed_digest("recovery-codes", code).hex()]
    db.session.commit()
    login = {"username": user.username, "password": PASSWORD, "code": code}
    assert client.post(LOGIN, json=login, **from_(CAFE)).status_code == 200
    return links_of_last_code()


@ONLY_SQLITE
def test_a_later_login_does_not_end_the_links_of_the_mail_before(client, user):
    """Else an intruder would log in twice."""
    links = told(client, user, CAFE)
    told(client, user, HOTEL)
    assert client.post(links["block"]).status_code == 302
    assert (state_of(user, CAFE), state_of(user, HOTEL)) == (AddressState.BLOCKED, AddressState.NEW)


@ONLY_SQLITE
def test_the_links_work_for_some_days_and_for_who_is_not_shut_out(app, client, user, session):
    first, second = told(client, user, CAFE), told(client, user, HOTEL)
    with time_machine.travel(utc_now() + timedelta(days=app.config["LOGIN_ADDRESS_DAYS"], minutes=1)):
        assert client.get(first["block"]).status_code == 410
        answer = client.post(first["block"])
        assert (answer.status_code, "has expired" in answer.text) == (410, True)
    user.active = False
    session.commit()
    assert client.post(second["trust"]).status_code == 410
    assert client.post("/login-address/nothing/trust").status_code == 410
    assert client.get("/login-address/nothing/else").status_code == 404
    assert (state_of(user, CAFE), state_of(user, HOTEL)) == (AddressState.NEW, AddressState.NEW)


@ONLY_SQLITE
def test_the_button_behind_a_link_needs_a_csrf_token(app, client, user):
    links = told(client, user)
    app.config["WTF_CSRF_ENABLED"] = True
    assert client.post(links["block"]).status_code == 400
    assert state_of(user) is AddressState.NEW
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get(links["block"]).text)[1]
    assert client.post(links["block"], data={"csrf_token": token}).status_code == 302


@ONLY_SQLITE
def test_the_links_stand_in_no_table_and_staff_see_dots(client, user, session, mails):
    assert by_api(client, user, **from_(CAFE))
    (mail,) = mails()
    token = links_in(mail)["trust"].split("/")[2]
    rows = [str(row) for table in ("email_messages", "job_records", "account_codes", "login_addresses", "audit_entries")
            for row in session.execute(sa.text(f"SELECT * FROM {table}"))]  # fmt: skip
    assert any(CAFE in row for row in rows), "the search finds nothing"
    assert not any(token in row for row in rows)
    log_in(client, make_user(Role.ADMIN))
    shown = client.get(f"/mails/{session.scalar(sa.select(EmailMessage.id))}/html").text
    assert "Firefox on Linux" in shown
    assert token not in shown


# ── Who is blocked ───────────────────────────────────────────────────────────────────────────────────────────────


def blocked(user: User, address: str = CAFE) -> None:
    db.session.add(LoginAddress(user=user, network=address, ip_address=address, state=AddressState.BLOCKED))
    db.session.commit()


@ONLY_SQLITE
def test_a_blocked_address_is_answered_as_a_wrong_password(client, user, session, statements):
    blocked(user)
    pages, answers, costs = [], [], []
    for password in (PASSWORD, "wrong"):
        form = {"login": user.username, "password": password}
        page = client.post("/login", data=form, **from_(CAFE))
        pages.append((page.status_code, re.sub(r'value="[^"]*"', "", page.text)))
        statements.clear()
        answer = client.post(LOGIN, json={"username": user.username, "password": password}, **from_(CAFE))
        answers.append((answer.status_code, answer.json))
        costs.append([" ".join(statement.split()) for statement in statements])
    assert pages[0] == pages[1]
    assert pages[0][0] == 422
    assert answers[0] == answers[1]
    assert answers[0][0] == 401
    assert costs[0] == costs[1]
    assert any("login_addresses" in statement for statement in costs[0])
    assert session.scalar(sa.select(User.login_count).where(User.id == user.id)) == 0


@ONLY_SQLITE
def test_tries_from_a_blocked_address_are_counted_as_wrong_ones(client, user):
    blocked(user)
    tries = [
        client.post(LOGIN, json={"username": user.username, "password": PASSWORD}, **from_(CAFE)) for _ in range(11)
    ]
    assert [answer.status_code for answer in tries] == [401] * 10 + [429]
    assert FAILED_LOGINS.times > 10  # it is the limit of one login that is spent


@pytest.mark.parametrize("end", [services.end_access, services.disable])
def test_a_password_that_changes_while_it_is_verified_logs_no_one_in(app, client, user, monkeypatch, end):
    looks = services.is_password

    def look_and_lose(*arguments):
        is_right = looks(*arguments)
        in_another_thread(app, lambda: (end(db.session.get_one(User, user_id)), db.session.commit())).join()
        return is_right

    user_id = user.id
    db.session.rollback()
    monkeypatch.setattr(services, "is_password", look_and_lose)
    assert client.post(LOGIN, json={"username": user.username, "password": PASSWORD}).status_code == 401


@ONLY_POSTGRESQL
def test_a_login_that_is_under_way_when_everything_ends_ends_too(app, client, user, monkeypatch):
    """On SQLite one of the two waits from its beginning."""
    links = told(client, user)
    issues, threads = accounts_api.issue_pair, []

    def issue_late(user):
        threads.append(in_another_thread(app, lambda: app.test_client().post(links["block"])))
        wait_until(lambda: not threads[0].is_alive() or waits_for_lock(app))
        return issues(user)

    monkeypatch.setattr(accounts_api, "issue_pair", issue_late)
    answer = client.post(LOGIN, json={"username": user.username, "password": PASSWORD})
    threads[0].join()
    assert state_of(user) is AddressState.BLOCKED
    assert answer.status_code == 200
    headers = {"Authorization": f"Bearer {answer.json['access_token']}"}
    assert client.get("/api/v1/me", headers=headers).status_code == 401


def waits_for_lock(app) -> bool:
    with db.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return connection.scalar(sa.text(query)) > 0


def in_another_thread(app, action: Callable[[], object]) -> Thread:
    def run() -> None:
        with app.app_context():
            action()
            db.session.remove()

    thread = Thread(target=run)
    thread.start()
    return thread


# ── The page of one's own ────────────────────────────────────────────────────────────────────────────────────────


def id_of(user: User, address: str) -> int:
    query = sa.select(LoginAddress.id).where(LoginAddress.user_id == user.id, LoginAddress.network == address)
    return db.session.scalars(query).one()


@ONLY_SQLITE
def test_the_page_shows_ones_addresses_and_unblocks_forgets_and_trusts(client, user):
    blocked(user)
    told(client, user, HOTEL)
    blocked(make_user(), "192.0.2.99")
    page = log_in(client, user).get(PAGE).text
    assert [address in page for address in (CAFE, HOTEL, "127.0.0.1", "192.0.2.99")] == [True, True, True, False]
    assert "Firefox on Linux" in page
    assert client.post(f"{PAGE}/{id_of(user, CAFE)}/trust").location == PAGE
    assert state_of(user, CAFE) is AddressState.TRUSTED
    assert client.post(f"{PAGE}/{id_of(user, HOTEL)}/forget").location == PAGE
    assert state_of(user, HOTEL) is None
    assert by_api(client, user, **from_(CAFE))
    assert by_api(client, user, **from_(HOTEL))
    assert asked_for() == [NEW_ADDRESS, NEW_ADDRESS]  # before it was forgotten, and after
    assert events("user.address") == [
        ("user.address_trusted", {"address": CAFE}),
        ("user.address_forgotten", {"address": HOTEL}),
    ]


@ONLY_SQLITE
def test_to_block_on_the_page_does_what_the_link_does_except_to_where_one_is(client, user, session):
    told(client, user)
    log_in(client, user)
    assert client.post(f"{PAGE}/{id_of(user, '127.0.0.1')}/block").status_code == 409
    assert client.post(f"{PAGE}/{id_of(user, CAFE)}/block").location == "/login"
    assert state_of(user) is AddressState.BLOCKED
    assert client.get("/reservations/").location.startswith("/login")
    assert not by_api(client, user)
    assert asked_for() == [NEW_ADDRESS, "password-reset"]


@ONLY_SQLITE
def test_from_an_unconfirmed_ip_address_nothing_is_changed_until_the_time_to_deny_it_is_over(
    app, client, user, session
):
    """A thief of a password can neither trust their own IP address nor lock out the user."""
    intruder = app.test_client()
    intruder.post("/login", data={"login": user.username, "password": PASSWORD}, **from_(CAFE))
    page = intruder.get(PAGE, **from_(CAFE))
    assert "You can change this from a trusted IP address only" in page.text
    assert "/forget" not in page.text
    for address in (CAFE, "127.0.0.1"):
        for event in ("trust", "block", "forget"):
            assert intruder.post(f"{PAGE}/{id_of(user, address)}/{event}", **from_(CAFE)).status_code == 403
    # Nor from an IP address without a login, nor from a blocked one.
    assert intruder.post(f"{PAGE}/{id_of(user, CAFE)}/trust", **from_(HOTEL)).status_code == 403
    blocked(user, HOTEL)
    assert intruder.post(f"{PAGE}/{id_of(user, HOTEL)}/trust", **from_(HOTEL)).status_code == 403
    assert (state_of(user), state_of(user, "127.0.0.1")) == (AddressState.NEW, AddressState.TRUSTED)
    long_ago = utc_now() - timedelta(days=app.config["LOGIN_ADDRESS_DAYS"], minutes=1)
    session.execute(sa.update(LoginAddress).values(first_seen_at=long_ago))
    session.commit()
    assert intruder.post(f"{PAGE}/{id_of(user, HOTEL)}/trust", **from_(HOTEL)).status_code == 403
    assert intruder.post(f"{PAGE}/{id_of(user, HOTEL)}/trust", **from_(CAFE)).status_code == 303


@ONLY_SQLITE
def test_the_page_asks_for_the_password_when_the_login_was_long_ago_and_its_buttons_for_a_csrf_token(app, client, user):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        log_in(client, user)
        assert client.get(PAGE).status_code == 200
        clock.shift(3 * 3600)
        blocked(user)
        from_page = {"Referer": f"http://localhost{PAGE}"}
        for answer in (client.get(PAGE), client.post(f"{PAGE}/{id_of(user, CAFE)}/trust", headers=from_page)):
            assert (answer.status_code, answer.location) == (302, f"/account/verify?next={PAGE}")
        assert state_of(user) is AddressState.BLOCKED
        verified = client.post(answer.location, data={"password": PASSWORD})
        assert verified.location == PAGE
        app.config["WTF_CSRF_ENABLED"] = True
        assert client.post(f"{PAGE}/{id_of(user, CAFE)}/trust").status_code == 400
        app.config["WTF_CSRF_ENABLED"] = False
        assert client.post(f"{PAGE}/{id_of(user, CAFE)}/trust").status_code == 303


# ── Upkeep and the demo ──────────────────────────────────────────────────────────────────────────────────────────


def test_old_addresses_and_too_many_are_forgotten_and_blocked_ones_never(session, user, monkeypatch):
    monkeypatch.setattr(logins, "MOST_KEPT", 3)
    other = make_user()
    now = utc_now()
    for number in range(5):
        seen = {"first_seen_at": now, "last_seen_at": now - timedelta(minutes=number + 1)}
        session.add(LoginAddress(user=user, network=f"n{number}", ip_address="", **seen))
    old = {"first_seen_at": now, "last_seen_at": now - logins.KEPT - timedelta(days=1)}
    session.add(LoginAddress(user=other, network="old", ip_address="", **old))
    session.add(LoginAddress(user=other, network="blocked", ip_address="", state=AddressState.BLOCKED, **old))
    session.commit()
    assert logins.prune_login_addresses(session) == 4
    session.commit()
    left = session.execute(sa.select(LoginAddress.user_id, LoginAddress.network)).all()
    here = "127.0.0.1"
    assert sorted(map(tuple, left)) == [
        *((user.id, network) for network in (here, "n0", "n1")),
        *((other.id, network) for network in (here, "blocked")),
    ]


@ONLY_SQLITE
def test_of_the_demo_the_member_is_new_here_and_staff_is_not(app, client, session):
    assert app.test_cli_runner().invoke(args=["demo", "load"]).exit_code == 0
    assert app.test_cli_runner().invoke(args=["demo", "load"]).exit_code == 0
    for name in ("admin", "staff", "member"):
        body = {"username": name, "password": "belfry-demo"}
        for here in ("127.0.0.1", "::1"):
            assert client.post(LOGIN, json=body, **from_(here)).status_code == 200
    assert asked_for() == [NEW_ADDRESS] * 2
    assert {mail.recipients[0] for mail in session.scalars(sa.select(EmailMessage))} == {"member@example.org"}
