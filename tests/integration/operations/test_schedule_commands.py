"""`flask schedule create`, `update`, `delete` and `list`, for schedules that users make."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.changes import Actor, use_actor
from flask_belfry.operations import custom_schedules
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.outbox import CustomSchedule, JobRecord
from tests.reservation_factories import make_school, make_user

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CREATE = ("create", "echo", "--job", "test.act")


@pytest.fixture
def run(app):
    """Runs `flask schedule` with these words."""
    return lambda *words: app.test_cli_runner().invoke(args=["schedule", *words])


def listed(run) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(run("list", "--json").stdout)}


def test_a_schedule_is_created_changed_run_paused_resumed_and_deleted(run, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    school = make_school()
    words = ("--args", '{"ticket_id": 7}', "--cron", "0  7 * * MON-FRI", "--zone", "Europe/Berlin")
    created = run(*CREATE, *words, "--school", str(school.id))
    assert created.stdout.splitlines() == [
        "custom.echo  at 07:00 on Monday through Friday (Europe/Berlin)",
        *(f"    2030-05-{day:02}T05:00:00+00:00" for day in (7, 8, 9, 10, 13)),
    ]
    row = session.get_one(CustomSchedule, "custom.echo")
    assert (row.args, row.cron, row.user_id, row.school_id) == ({"ticket_id": 7}, "0 7 * * MON-FRI", None, school.id)
    session.rollback()
    shown = listed(run)["custom.echo"]
    assert (shown["is_custom"], shown["owner"], shown["problem"], len(shown["next_runs"])) == (True, None, None, 5)
    assert "custom.echo  at 07:00" in run("list").stdout
    assert 'test.act {"ticket_id": 7}' in run("list").stdout
    assert run("update", "custom.echo", "--every", "15m").exit_code == 0
    session.expire_all()
    row = session.get_one(CustomSchedule, "custom.echo")
    assert (row.args, row.cron, row.every_seconds, row.school_id) == ({"ticket_id": 7}, None, 900, school.id)
    session.rollback()
    job_id = run("run", "custom.echo").stdout.strip()
    assert session.get_one(JobRecord, job_id).args == {"ticket_id": 7}
    session.rollback()
    assert run("pause", "custom.echo").exit_code == 0
    assert listed(run)["custom.echo"]["state"] == "paused"
    assert run("resume", "custom.echo").exit_code == 0
    assert listed(run)["custom.echo"]["state"] == "active"
    assert run("delete", "custom.echo").exit_code == 0
    assert "custom.echo" not in listed(run)
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == "custom.echo"))
    assert [action.partition(".")[2] for action in actions] == ["create", "update", "run", "pause", "resume", "delete"]


@SQLITE
@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ((*CREATE,), 1, "cron: enter either a cron line or an interval"),
        ((*CREATE, "--cron", "0 3 * * *", "--every", "1h"), 1, "cron: enter either a cron line or an interval"),
        ((*CREATE, "--cron", "tomorrow"), 1, "cron: cron must have five fields"),
        ((*CREATE, "--every", "1s"), 1, "every_seconds: must be between 10 seconds and 366 days"),
        ((*CREATE, "--every", "soon"), 2, "--every"),
        ((*CREATE, "--cron", "0 3 * * *", "--zone", "Mars/Base"), 1, "zone: 'Mars/Base' is not a time zone"),
        ((*CREATE, "--every", "1h", "--args", "7"), 2, "--args"),
        ((*CREATE, "--every", "1h", "--args", '{"ticket_id": "7"}'), 1, "args.ticket_id: must be an integer"),
        ((*CREATE, "--every", "1h", "--args", '{"x": 1}'), 1, "args.x: is not an argument of test.act"),
        ((*CREATE, "--every", "1h", "--args", '{"ticket_id": NaN}'), 1, "args.ticket_id: must be an integer"),
        ((*CREATE, "--every", "1h", "--school", "999"), 1, "school: there is no such school"),
        (("create", "echo", "--job", "test.greet", "--every", "1h"), 1, "args.ticket_id: is required by test.greet"),
        (("create", "echo", "--job", "no.such", "--every", "1h"), 1, "job: 'no.such' is not a job"),
        (("create", "echo", "--job", "mail.deliver", "--every", "1h"), 1, "job: mail.deliver runs many records"),
        (("create", "Echo!", "--job", "test.act", "--every", "1h"), 1, "name: must be lower-case letters"),
        (("update", "custom.nope", "--every", "1h"), 1, "There is no schedule 'custom.nope'"),
        (("update", "maintenance.prune", "--every", "1h"), 1, "There is no schedule 'maintenance.prune'"),
        (("delete", "maintenance.prune"), 1, "There is no schedule 'maintenance.prune'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_field(run, session, words, status, reason):
    result = run(*words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (status, "", 1), result.output
    assert reason in result.stderr
    assert session.scalars(sa.select(CustomSchedule)).all() == []


@SQLITE
def test_the_list_and_the_doctor_name_what_does_not_run(app, run, session):
    make_user(Role.ADMIN)
    owner = make_user(Role.ADMIN)
    with use_actor(Actor(owner.id)):
        custom_schedules.create(Draft("echo", "test.act", every_seconds=60))
    doctor = app.test_cli_runner().invoke
    findings = {found["part"]: found for found in json.loads(doctor(args=["doctor", "--json"]).stdout)}
    assert findings["schedule"] == {
        "part": "schedule",
        "is_ok": True,
        "message": f"{len(app.extensions['schedule'])} periodic jobs of the code, 1 made by users",
        "cause": "",
        "remedy": "",
        "severity": "ok",
        "since": None,
        "url": "",
    }
    owner.active = False
    session.commit()
    assert f"by {owner.name}" in run("list").stdout
    assert "does not run: Its owner may no longer change the schedule." in run("list").stdout
    findings = {found["part"]: found for found in json.loads(doctor(args=["doctor", "--json"]).stdout)}
    assert not findings["schedule"]["is_ok"]
    assert "custom.echo does not run: Its owner may no longer" in findings["schedule"]["message"]
    assert run("update", "custom.echo", "--every", "2m").exit_code == 0
    assert listed(run)["custom.echo"]["problem"] is None
