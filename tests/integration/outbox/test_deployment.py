"""Several deployments on one Redis database, and a Redis that refuses what the processes need of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
import sqlalchemy as sa

from app.accounts import limits
from app.web import limiting
from flask_belfry.db import db
from flask_belfry.operations import problems
from flask_belfry.outbox import Deployment, JobState, enqueue, publisher
from flask_belfry.outbox.deployment import CHECK_SECONDS, MEMORY_KEY, OWNER_KEY, PRECEDENCE_SECONDS, BrokerOwnership
from flask_belfry.outbox.errors import ForeignBrokerError
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.clocks import ENTRY, QUEUE, TIMERS, one_pass, scheduler
from tests.conftest import make_app
from tests.job_records import asked, state_of
from tests.servers import PostgresServer, ValkeyServer, wait_until

once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ANOTHER = b"another deployment"


@pytest.fixture(autouse=True)
def no_smtp(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here is about the mail server, for which the doctor would wait."""
    monkeypatch.setattr(problems, "check_connection", lambda: "")


@pytest.fixture
def owned_by_another(broker: redis.Redis) -> redis.Redis:
    broker.set(OWNER_KEY, ANOTHER)
    return broker


def findings(app) -> dict[str, tuple[bool, str]]:
    """What `flask doctor` says of each part."""
    output = app.test_cli_runner().invoke(args=["doctor", "--json"]).output
    return {row["part"]: (row["is_ok"], row["message"]) for row in json.loads(output)}


def parts(app) -> dict[str, str]:
    """What `/readyz` says of each part."""
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 200
    return answer.json["parts"]


def test_the_first_deployment_that_publishes_owns_the_redis_database(app, session, broker):
    asked(session)
    assert broker.get(OWNER_KEY).decode().startswith(session.scalar(sa.select(Deployment.id)))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_copy_of_a_database_is_another_deployment(app, session, broker, settings, postgres: PostgresServer, tmp_path):
    asked(session)
    id = session.scalar(sa.select(Deployment.id))
    db.session.remove()
    db.engine.dispose()
    copy = postgres.create(db.engine.url.database or "")
    try:
        second = make_app(settings | {"DATABASE_URL": postgres.url(copy)}, tmp_path)
        with second.app_context():
            assert db.session.scalar(sa.select(Deployment.id)) == id
            publisher().ownership.learn(db.session())
            with pytest.raises(ForeignBrokerError, match=id):
                publisher().ownership.check(broker)
            db.session.remove()
            db.engine.dispose()
    finally:
        postgres.drop(copy)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_without_access_to_the_clusters_identifier_a_database_is_known_by_its_row(app, session):
    for statement in (
        "CREATE ROLE tenant",
        "GRANT SELECT ON deployments TO tenant",
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public",
        "SET LOCAL ROLE tenant",
    ):
        session.execute(sa.text(statement))
    ownership = BrokerOwnership()
    ownership.learn(session)
    assert ownership.deployment_id == session.scalar(sa.select(Deployment.id))
    session.rollback()


def test_a_second_deployment_publishes_nothing_and_its_jobs_wait_in_the_database(app, session, owned_by_another):
    asked(session)
    asked(session, delay=60)
    assert owned_by_another.exists(QUEUE, TIMERS) == 0
    assert publisher().breaker.is_open


@once_is_enough
def test_its_scheduler_refuses_to_work_and_says_so_until_it_may(app, session, owned_by_another, caplog):
    id = asked(session)
    clock = scheduler(app)
    clock.run(burst=True)
    assert "belongs to deployment another deployment, not to this one" in caplog.text
    assert owned_by_another.keys("*") == [OWNER_KEY.encode()]
    is_ok, message = findings(app)["scheduler"]
    assert not is_ok, message
    owned_by_another.delete(OWNER_KEY)
    publisher().ownership._refused_at -= PRECEDENCE_SECONDS
    app.config["RELAY_GRACE_SECONDS"] = 0
    one_pass(scheduler(app))
    assert state_of(session, id) is JobState.QUEUED


@once_is_enough
@pytest.mark.parametrize("kind", [ThreadedWorker, ForkingWorker])
def test_its_workers_take_none_of_the_owners_jobs(app, owned_by_another, valkey, monkeypatch, caplog, kind):
    owned_by_another.rpush(QUEUE, "00000000-0000-7000-8000-000000000000")
    worker = kind(["default"], connection=valkey.client())
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)
    monkeypatch.setattr(worker, "_pause", lambda seconds: worker._stopping.set())
    assert worker.work(max_idle_time=1) is False
    assert "belongs to deployment another deployment, not to this one" in caplog.text
    assert owned_by_another.llen(QUEUE) == 1
    assert owned_by_another.keys("rq:worker*") == []


@once_is_enough
def test_doctor_and_readyz_tell_that_the_redis_database_is_anothers(app, owned_by_another):
    is_ok, message = findings(app)["broker"]
    assert not is_ok
    assert message.startswith("the Redis database belongs to deployment another deployment, not to this one")
    assert parts(app)["broker"] == "of another deployment"


@once_is_enough
def test_its_rate_limits_count_in_memory(app, session, owned_by_another):
    asked(session)
    publisher().breaker.succeeded()
    with app.test_request_context():
        limiting.hit(limits.CODES, "x")
    assert owned_by_another.keys("*") == [OWNER_KEY.encode()]


@once_is_enough
def test_an_operator_makes_it_the_owner_after_a_restore(app, session, owned_by_another):
    owned_by_another.set(MEMORY_KEY, "")
    asked(session)
    assert app.test_cli_runner().invoke(args=["jobs", "take-broker"]).exit_code == 0
    publisher().breaker.succeeded()
    asked(session)
    assert owned_by_another.llen(QUEUE) == 1
    assert not owned_by_another.exists(MEMORY_KEY)  # so that the scheduler sets all timers again


@once_is_enough
def test_a_wiped_redis_goes_back_to_its_owner_and_not_to_one_that_was_refused(app, session, owned_by_another):
    ownership = publisher().ownership
    ownership.learn(session)
    for wiped in (False, True):
        if wiped:
            owned_by_another.delete(OWNER_KEY)
        with pytest.raises(ForeignBrokerError):
            ownership.check(owned_by_another)
    assert not owned_by_another.exists(OWNER_KEY)
    ownership._refused_at -= PRECEDENCE_SECONDS
    ownership.check(owned_by_another)
    assert owned_by_another.get(OWNER_KEY).decode() == ownership.deployment_id


@once_is_enough
def test_a_process_that_works_notices_a_new_owner(app, session, broker):
    asked(session)
    broker.set(OWNER_KEY, ANOTHER)
    publisher().ownership._checked_at -= CHECK_SECONDS
    asked(session)
    assert broker.llen(QUEUE) == 1


REFUSALS = {
    "scripts": ("~*", "+@all", "-@scripting"),
    "keys of Belfry": ("~rq:*", "+@all"),
    "keys of RQ": ("~belfry:*", "+@all"),
    "keys of the rate limits": ("~rq:*", "~belfry:probe", "~belfry:deployment", "~belfry:timers", "+@all"),
    "writing": ("~*", "+@all", "-@write"),
}


@pytest.fixture
def as_user(settings, valkey: ValkeyServer, broker: redis.Redis) -> Iterator[None]:
    """The application speaks to Redis as a user of its own, which may do what the documentation asks for."""
    settings["REDIS_URL"] = f"unix://belfry:pw@{valkey.socket}"
    allow(broker, "~rq:*", "~belfry:*", "+@all", "-@admin")
    yield
    broker.execute_command("ACL", "DELUSER", "belfry")


def allow(broker: redis.Redis, *rules: str) -> None:
    broker.execute_command("ACL", "SETUSER", "belfry", "reset", "on", ">pw", "&rq:*", *rules)


@pytest.mark.usefixtures("as_user")
@once_is_enough
@pytest.mark.parametrize("refusal", REFUSALS)
def test_doctor_and_readyz_tell_what_an_acl_refuses(app, broker, refusal):
    assert findings(app)["broker"] == (True, "available; ids in its queues: mail 0, default 0, bulk 0, heavy 0")
    assert parts(app)["broker"] == "ok"
    allow(broker, *REFUSALS[refusal])
    is_ok, message = findings(app)["broker"]
    assert (is_ok, "permission" in message) == (False, True), message
    assert parts(app)["broker"] == "unavailable"


@pytest.mark.usefixtures("as_user")
@once_is_enough
def test_without_scripts_jobs_run_and_rate_limits_count_in_memory(app, session, broker):
    allow(broker, *REFUSALS["scripts"])
    id = enqueue("test.act", delay=0.001)
    session.commit()
    clock = scheduler(app)

    def is_queued() -> bool:
        one_pass(clock)
        return state_of(session, id) is JobState.QUEUED

    wait_until(is_queued)
    assert broker.exists(MEMORY_KEY)
    with app.test_request_context():
        limiting.hit(limits.CODES, "x")
    assert not publisher().breaker.is_open
    clock.remove_lock()
    assert not broker.exists(clock.scheduler_lock_key)


@pytest.mark.usefixtures("as_user")
@once_is_enough
def test_a_scheduler_whose_passes_fail_does_not_count_as_one_that_runs(app, session, broker, caplog):
    clock = scheduler(app, ENTRY)
    one_pass(clock)
    assert findings(app)["scheduler"] == (True, "running")
    assert parts(app)["scheduler"] == "ok"
    session.execute(sa.update(Deployment).values(scheduler_passed_at=None))
    session.commit()
    allow(broker, *REFUSALS["keys of RQ"])
    clock.run(burst=True)
    assert "'reason': 'Command # 1 (SET rq:scheduler_lock" in caplog.text
    clock._beat()
    assert "permission" in session.scalar(sa.select(Deployment.scheduler_error))
    session.rollback()
    found = findings(app)
    assert found["scheduler"] == (False, "does not finish its passes: the broker is unavailable")
    assert "permission" in found["broker"][1]
    assert parts(app)["scheduler"] == "unavailable"
