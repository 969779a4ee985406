"""Classes, students and guardians: what is valid, what is recorded, and what remains of a person who leaves."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from app import directory
from app.accounts import Role
from app.audit import AuditEntry
from app.directory import Guardian, SchoolClass, Student
from app.directory.personal import erase, export
from app.personal_data import Person
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError
from tests.everything import everything_kept
from tests.reservation_factories import make_user
from tests.school_factories import guardian, school_class, second_school, student

TODAY = date(2026, 3, 2)
NEW = {"number": "1", "name": "Ada", "enrolled_on": TODAY}


@pytest.fixture
def staff(session):
    return make_user(Role.STAFF)


def problems(function, *arguments, **values) -> dict[str, list[str]]:
    with pytest.raises(InvalidInputError) as refused:
        function(*arguments, **values)
    return refused.value.fields


def test_a_student_is_of_the_users_school_with_single_spaces_in_the_name(staff):
    of_school = school_class()
    made = directory.create_student(staff, **NEW | {"name": "  Ada   King ", "class_id": of_school.id})
    assert (made.school_id, made.name, made.school_class) == (staff.school_id, "Ada King", of_school)


def test_every_invalid_field_is_named(staff):
    elsewhere = school_class(school_id=second_school().id)
    student(number="1")
    invalid = {"number": "1", "name": " ", "class_id": elsewhere.id, "enrolled_on": date(1066, 1, 1)}
    found = problems(directory.create_student, staff, **invalid, left_on=date(1066, 1, 1))
    assert found == {
        "number": ["Another student of the school has this number."],
        "name": ["This field is required."],
        "class_id": ["Select a class of the school."],
        "enrolled_on": ["Choose a date from 1950 to 2100."],
        "left_on": ["Choose a date after the enrolment."],
    }
    long = problems(directory.create_student, staff, number="9" * 41, name="a\x00b", enrolled_on=TODAY)
    assert long == {
        "number": ["Enter at most 40 printable characters."],
        "name": ["Enter at most 120 printable characters."],
    }


def test_a_number_is_unique_in_its_school_only(staff, session):
    ours = student(number="1")
    student(number="1", school_id=second_school().id)
    other = student(number="2")
    assert list(problems(directory.change_student, staff, other, {"number": "1"})) == ["number"]
    directory.change_student(staff, ours, {"number": "1", "name": "Renamed"})
    session.commit()
    assert session.get(Student, ours.id).name == "Renamed"


def test_a_number_that_another_transaction_takes_meanwhile_is_a_field_error(staff, session, monkeypatch):
    student(number="1")
    others, calls = directory.services._others, iter([False])
    monkeypatch.setattr(directory.services, "_others", lambda *given: next(calls, True) and others(*given))
    assert list(problems(directory.create_student, staff, **NEW)) == ["number"]
    session.rollback()


def test_the_name_of_a_class_is_unique_in_its_school(staff):
    school_class(name="7b", school_id=second_school().id)
    ours = directory.create_class(staff, name="7b")
    assert list(problems(directory.create_class, staff, name=" 7b ")) == ["name"]
    assert list(problems(directory.create_class, staff, name="x" * 81)) == ["name"]
    directory.change_class(staff, ours, {"name": "8b"})
    assert ours.name == "8b"


def test_a_class_with_students_is_not_deleted_and_those_who_left_lose_theirs(staff, session):
    of_school = school_class()
    enrolled, left = student(of_school), student(of_school, left_on=TODAY)
    with pytest.raises(ConflictError, match="has 1 student: move them"):
        directory.delete_class(staff, of_school, today=TODAY)
    directory.change_student(staff, enrolled, {"class_id": None})
    directory.delete_class(staff, of_school, today=TODAY)
    session.commit()
    assert session.scalars(sa.select(SchoolClass)).all() == []
    assert session.get(Student, left.id).class_id is None
    recorded = sa.select(StatusChange.subject_id).where(StatusChange.field == "class_id").order_by(StatusChange.id)
    assert session.scalars(recorded).all() == [str(enrolled.id), str(left.id)]


@pytest.mark.parametrize("state", ["of another school", "disabled", "unconfirmed", "unknown"])
def test_a_guardian_is_an_active_user_of_the_same_school(staff, session, state):
    values = {
        "of another school": {"school_id": second_school().id},
        "disabled": {"active": False},
        "unconfirmed": {"confirmed_at": None},
    }
    user_id = make_user(**values[state]).id if state in values else 999_999
    found = problems(directory.add_guardian, staff, student(), user_id=user_id)
    assert found == {"user_id": ["Select an active user of the school with a confirmed email address."]}


def test_a_user_is_a_guardian_of_a_student_once(staff):
    child = student()
    kept = guardian(child)
    found = problems(directory.add_guardian, staff, child, user_id=kept.user_id, relation="x" * 41)
    assert found == {
        "user_id": ["Already a guardian of this student."],
        "relation": ["Enter at most 40 printable characters."],
    }
    assert guardian(student(), kept.user).user_id == kept.user_id


def test_a_restriction_has_a_reason_which_goes_with_it(staff):
    kept = guardian(student())
    change = directory.change_guardian
    assert problems(change, staff, kept, {"is_restricted": True}) == {
        "restriction_reason": ["Enter the reason of the restriction."]
    }
    assert list(problems(change, staff, kept, {"restriction_reason": "Custody"})) == ["restriction_reason"]
    change(staff, kept, {"is_restricted": True, "restriction_reason": "Custody"})
    change(staff, kept, {"relation": "father"})
    assert (kept.is_restricted, kept.restriction_reason, kept.relation) == (True, "Custody", "father")
    change(staff, kept, {"is_restricted": False})
    assert (kept.is_restricted, kept.restriction_reason) == (False, None)


def test_members_change_nothing(session):
    member, child, of_school = make_user(), student(), school_class()
    kept = guardian(child, member)
    for refused in (
        lambda: directory.create_class(member, name="x"),
        lambda: directory.change_class(member, of_school, {"name": "x"}),
        lambda: directory.delete_class(member, of_school, today=TODAY),
        lambda: directory.create_student(member, **NEW),
        lambda: directory.change_student(member, child, {"name": "x"}),
        lambda: directory.delete_student(member, child),
        lambda: directory.add_guardian(member, child, user_id=member.id),
        lambda: directory.change_guardian(member, kept, {"is_restricted": False}),
        lambda: directory.remove_guardian(member, kept),
    ):
        with pytest.raises(ForbiddenError):
            refused()


def test_the_history_has_all_changes_of_a_student_and_its_guardians_with_their_actors(staff, session):
    person, old, new = make_user(name="Paula Parent"), school_class(name="5a"), school_class(name="6a")
    with use_actor(Actor(staff.id, "request")):
        child = directory.create_student(staff, **NEW | {"class_id": old.id})
        session.commit()
        directory.change_student(staff, child, {"class_id": new.id, "name": "Augusta"})
        session.commit()
        kept = directory.add_guardian(staff, child, user_id=person.id)
        session.commit()
        directory.change_guardian(staff, kept, {"is_restricted": True, "restriction_reason": "Custody"})
        session.commit()
        directory.remove_guardian(staff, kept)
        session.commit()
    entries = directory.history_of(child)
    assert {entry.who for entry in entries} == {staff.name}
    assert entries[-1].to_status == "enrolled"
    notes = [entry.note or "" for entry in entries]
    assert notes[0] == "guardian removed: Paula Parent"
    assert set(notes[1:3]) == {
        "guardian Paula Parent, contact restriction: no → yes",
        "guardian Paula Parent, reason of the restriction changed",
    }
    assert notes[3] == "guardian added: Paula Parent"
    assert set(notes[4].split("; ")) == {"class: 5a → 6a", "name changed"}
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_type == "student"))
    assert sorted(actions) == ["student.create", "student.guardian_added", "student.guardian_removed"]


def test_names_and_reasons_are_not_in_the_records_of_their_changes(staff, session):
    kept = guardian(student(name="Before Secret"), restricted="Before Secret")
    directory.change_student(staff, kept.student, {"name": "After Secret"})
    directory.change_guardian(staff, kept, {"restriction_reason": "After Secret"})
    session.commit()
    rows = session.execute(sa.select(StatusChange.field, StatusChange.old, StatusChange.new)).all()
    assert sorted(map(tuple, rows)) == [("name", None, None), ("restriction_reason", None, None)]


def test_deleting_a_student_deletes_the_guardians_rows_and_no_user(staff, session):
    child = student()
    person = guardian(child).user
    directory.delete_student(staff, child)
    session.commit()
    assert session.scalars(sa.select(Guardian)).all() == []
    assert session.get(type(person), person.id) is person
    assert "student.delete" in session.scalars(sa.select(AuditEntry.action)).all()


def test_the_export_of_a_guardian_has_no_reason_and_the_erasure_leaves_no_row(session):
    person = make_user()
    child = student(number="7", name="Ada")
    guardian(child, person, restricted="Zarathustras reason", relation="father")
    guardian(child)
    found = export(Person(person.id, person.email))
    assert found == [{"number": "7", "name": "Ada", "relation": "father", "is_restricted": True}]
    erase(Person(person.id, person.email))
    session.commit()
    assert len(session.scalars(sa.select(Guardian)).all()) == 1
    assert "Zarathustras reason" not in everything_kept()


@pytest.mark.parametrize(
    ("begins", "ends", "expected"),
    [(0, None, True), (1, None, False), (-9, 0, False), (-9, 1, True)],
    ids=["the first day", "tomorrow", "left today", "leaves tomorrow"],
)
def test_a_student_is_enrolled_from_the_first_day_to_the_day_before_leaving(session, begins, ends, expected):
    today = utc_now().date()
    left_on = None if ends is None else today + timedelta(days=ends)
    child = student(enrolled_on=today + timedelta(days=begins), left_on=left_on)
    found = session.scalars(sa.select(Student.id).where(directory.enrolled(today))).all()
    assert (child.id in found) is expected
