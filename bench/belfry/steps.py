"""What a case asks of Belfry, each step in a process of its own: `python -m bench.belfry.steps STEP [NUMBER]`.

`bench/peers/django_celery/steps.py` has the same steps, but for the hashes: its desk has no registration.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import sqlalchemy as sa
from flask_migrate import upgrade

from app.accounts import Role, User, hash_password, issue_personal_token
from app.notifications import Content, NotificationChannel, NotificationType, Targets, schedule, send
from app.push import Device, DeviceKind
from app.reservations import Reservation, ReservationStatus, sweep_overdue
from app.schools import School
from bench import history
from bench.belfry.root import app
from bench.stepping import BODY, TITLE, measured, take
from flask_belfry.changes import for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution.claim import claim
from flask_belfry.outbox import JobRecord, JobRequest, batch, enqueue_many, prune_records, publisher
from flask_belfry.outbox.backlog import FairChoice
from flask_belfry.outbox.relay import relay

COMMIT_JOBS = 5_000
SCHOOLS = 20
TIMES = 9
SECONDS_TO_SCHEDULE = 0.03
SECONDS_TO_ENQUEUE = 0.02
PASSWORD = "correct horse battery"


def prepare(customers: int) -> dict[str, str]:
    """Makes the tables, a member of staff with a token, and customers with the ids 1, 2, …"""
    upgrade()
    names = [f"customer{n}" for n in range(1, customers + 1)]
    people = [_person(name) for name in names]
    db.session.execute(sa.insert(User), people)
    # Nothing is sent to an invalid address: the mail about the token would be counted with those of a case.
    staff = User(**_person("staff", Role.STAFF) | {"email": "staff@bench.invalid"})
    db.session.add(staff)
    token, _ = issue_personal_token(staff, "bench", ["write"])
    db.session.commit()
    return {"authorization": f"Bearer {token}"}


def hire(staff: int) -> None:
    """Makes members of staff, whom a notification to members does not reach."""
    names = [f"staff{n}" for n in range(1, staff + 1)]
    db.session.execute(sa.insert(User), [_person(name, Role.STAFF) for name in names])
    db.session.commit()


def notify(_: int) -> dict[str, float]:
    """Accepts a notification by mail to all members."""
    return measured(_notify)


def _notify() -> int:
    return _send(NotificationChannel.MAIL)


def register_devices(_: int) -> None:
    """Registers a device of each member."""
    ids = db.session.scalars(sa.select(User.id).where(User.role == Role.MEMBER)).all()
    now = utc_now()
    rows = [
        {"user_id": id, "kind": DeviceKind.TOKEN, "token": f"device-{id}", "created_at": now, "last_seen_at": now}
        for id in ids
    ]
    db.session.execute(sa.insert(Device), rows)
    db.session.commit()


def notify_by_push(_: int) -> None:
    """Accepts a notification by push to all members."""
    _send(NotificationChannel.PUSH)


def schedule_within_a_minute(count: int) -> None:
    """Schedules notifications for times that are spread over a minute, which begins when all are accepted."""
    begins_at = utc_now() + timedelta(seconds=5 + count * SECONDS_TO_SCHEDULE)
    for number in range(count):
        moment = begins_at + timedelta(seconds=60 * number / count)
        schedule(_content(NotificationChannel.IN_APP), moment.replace(tzinfo=None), None, _school_id())
        if number % 50 == 0:
            db.session.commit()
    db.session.commit()


def _send(channel: NotificationChannel) -> int:
    send(_content(channel), None, _school_id())
    db.session.commit()
    return 1


def _content(channel: NotificationChannel) -> Content:
    return Content(TITLE, BODY, NotificationType.GENERAL, Targets(roles=(Role.MEMBER,)), channels=(channel,))


def _school_id() -> int:
    return db.session.scalars(sa.select(School.id)).one()


def _person(name: str, role: Role = Role.MEMBER) -> dict[str, object]:
    return {
        "username": name,
        "username_key": name,
        "email": f"{name}@example.org",
        "name": name,
        "role": role,
        "password_hash": "none",
        "created_at": utc_now(),
        "confirmed_at": utc_now(),
    }


def confirm(_: int) -> None:
    """Confirms all reservations in one transaction: one mail with its job for each."""
    db.session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
    db.session.commit()


def enqueue_noops(count: int) -> None:
    """Enqueue jobs that do nothing; workers find in the database what their queue cannot hold."""
    _enqueue("bench.noop", count)


def enqueue_limited(count: int) -> None:
    """The same with jobs that have a limit."""
    _enqueue("bench.limited", count)


def enqueue_together(count: int) -> dict[str, float]:
    """Enqueue jobs that do nothing in one commit; return the seconds."""
    return measured(lambda: _enqueue_together(count))


def enqueue_batch(count: int) -> dict[str, float]:
    """The same as jobs of a batch."""
    return measured(lambda: _enqueue_batch(count))


def _enqueue_batch(count: int) -> int:
    with batch("bench"):
        ids = _enqueue_noops(count)
    db.session.commit()
    return len(ids)


def _enqueue_together(count: int) -> int:
    ids = _enqueue_noops(count)
    db.session.commit()
    return len(ids)


def _enqueue_noops(count: int) -> list[str]:
    return enqueue_many("bench.noop", [JobRequest({"n": n}) for n in range(count)])


def _enqueue(name: str, count: int) -> None:
    for start in range(0, count, COMMIT_JOBS):
        requests = [JobRequest({"n": n}) for n in range(start, min(start + COMMIT_JOBS, count))]
        enqueue_many(name, requests)
        db.session.commit()


def work_beside_backlog(pending: int) -> dict[str, float]:
    """Makes pending jobs of many schools; returns the median seconds of a pass of the relay, of a worker's choice and
    claim of ten, and of the enqueuing of one."""
    for school_id in range(1, SCHOOLS + 1):
        with for_school(school_id):
            enqueue_noops(pending // SCHOOLS)
    choice, session = FairChoice(), db.session()

    def claim_ten() -> None:
        claim(session, choice.choose(session, "default", 10).ids, "bench")

    work = {"relay": lambda: relay(publisher()), "claim": claim_ten, "enqueue": lambda: enqueue_noops(1)}
    time.sleep(app.config["RELAY_GRACE_SECONDS"])  # the relay leaves younger jobs to their publisher
    return {name: _median_seconds(action) for name, action in work.items()}


def _median_seconds(action: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def hash_passwords(count: int) -> float:
    """Hashes so many passwords; returns the median of their seconds."""
    taken = []
    for n in range(count):
        begun = time.perf_counter()
        hash_password(f"correct horse battery {n}")
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def fill(jobs: int) -> dict[str, object]:
    """Makes the tables, the history of a week, schools, an admin, and a member of staff of each school."""
    upgrade()
    first = _school_id()
    schools = range(first, first + history.SCHOOLS)
    names = {id: {"id": id, "name": f"School {id}", "slug": f"school-{id}"} for id in schools if id != first}
    db.session.execute(sa.insert(School), list(names.values()))
    people = [_person("admin", Role.ADMIN) | {"school_id": first}]
    people += [_person(f"staff{id}", Role.STAFF) | {"school_id": id} for id in schools]
    found = _employ(people)
    history.fill(jobs)
    return found


def employ_admin(_: int) -> dict[str, object]:
    """Makes an admin, who can log in and gets no mail."""
    return _employ([_person("admin", Role.ADMIN) | {"email": "admin@bench.invalid"}])


def _employ(people: Sequence[dict[str, object]]) -> dict[str, object]:
    hashed = hash_password(PASSWORD)
    users = [User(**each | {"password_hash": hashed}) for each in people]
    db.session.add_all(users)
    db.session.flush()
    tokens = {user.username: issue_personal_token(user, "bench", ["read"])[0] for user in users}
    db.session.commit()
    return {"tokens": tokens, "password": PASSWORD}


def prune(count: int) -> dict[str, float]:
    """Deletes about so many of the oldest jobs of the history, as the periodic job does, while others are enqueued.

    Returns what `measured` does, and the longest time of enqueuing one.
    """
    total = db.session.scalar(sa.select(sa.func.count()).select_from(JobRecord)) or 1
    age = timedelta(days=history.DAYS) * (1 - count / total)
    is_over, taken = threading.Event(), [0.0]

    def enqueue_others() -> None:
        with app.app_context():
            while not is_over.wait(SECONDS_TO_ENQUEUE):
                begun = time.perf_counter()
                _enqueue("bench.noop", 1)
                taken.append(time.perf_counter() - begun)

    others = threading.Thread(target=enqueue_others)
    others.start()
    try:
        found = measured(lambda: prune_records(db.session(), older_than=age, failed_older_than=age))
    finally:
        is_over.set()
        others.join()
    return found | {"longest_seconds": max(taken)}


def sweep(_: int) -> dict[str, float]:
    """Completes the overdue reservations, as the periodic job does."""
    return measured(_sweep)


def _sweep() -> int:
    completed = sweep_overdue(db.session())
    db.session.commit()
    return completed


if __name__ == "__main__":
    with app.app_context():
        take(
            prepare,
            confirm,
            enqueue_noops,
            enqueue_limited,
            enqueue_together,
            enqueue_batch,
            work_beside_backlog,
            hash_passwords,
            hire,
            notify,
            register_devices,
            notify_by_push,
            schedule_within_a_minute,
            fill,
            employ_admin,
            prune,
            sweep,
        )
