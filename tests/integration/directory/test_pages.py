"""The pages of schools, classes and students."""

from __future__ import annotations

import re
from datetime import date

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.directory import Guardian, SchoolClass, Student
from app.schools import School, default_school
from tests.forms import shown_in
from tests.reservation_factories import log_in, make_user
from tests.school_factories import guardian, school_class, second_school, student

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def staff(client):
    return log_in(client, make_user(Role.STAFF))


@pytest.fixture
def admin(client):
    return log_in(client, make_user(Role.ADMIN))


def names(page: str) -> list[str]:
    return re.findall(r'class="row-link" href="[^"]+">([^<]+)<', page)


def test_staff_find_the_students_in_the_navigation_and_members_do_not(app, staff):
    assert 'href="/students"' in staff.get("/").text
    assert 'href="/schools"' not in staff.get("/").text
    member = log_in(app.test_client(), make_user())
    assert 'href="/students"' not in member.get("/reservations/").text
    refused = member.get("/students")
    assert (refused.status_code, "Classes and students are for staff only." in refused.text) == (403, True)


def test_the_list_is_filtered_by_enrolment_class_and_text(staff):
    assert "No students yet" in staff.get("/students").text
    of_school = school_class(name="7b")
    student(of_school, name="Ada", number="A1")
    student(name="Ben", number="B2")
    student(name="Zoe", number="Z3", enrolled_on=date(2020, 8, 1), left_on=date(2021, 8, 1))
    assert names(staff.get("/students").text) == ["Ada", "Ben"]
    assert names(staff.get("/students?show=not-enrolled").text) == ["Zoe"]
    assert names(staff.get("/students?show=all").text) == ["Ada", "Ben", "Zoe"]
    assert names(staff.get(f"/students?class={of_school.id}").text) == ["Ada"]
    assert names(staff.get("/students?text=b2").text) == ["Ben"]
    assert "No students match" in staff.get("/students?text=nothing").text
    assert names(staff.get("/students?class=x&show=y").text) == ["Ada", "Ben"]


def test_a_student_is_entered_edited_and_deleted(staff, session):
    of_school = school_class(name="7b")
    assert f'<option selected value="{of_school.id}">7b' in staff.get(f"/students/new?class={of_school.id}").text
    form = {"name": "Ada", "number": "1", "class_id": str(of_school.id), "enrolled_on": "2025-08-01", "left_on": ""}
    made = staff.post("/students/new", data=form)
    assert made.status_code == 303
    page = staff.get(made.location).text
    assert "Ada created." in page
    assert "No guardians" in page
    shown = shown_in(staff.get(f"{made.location}/edit").text)
    assert {name: shown[name] for name in form} == form
    refused = staff.post(f"{made.location}/edit", data=form | {"left_on": "2025-08-01"})
    assert (refused.status_code, "Choose a date after the enrolment." in refused.text) == (422, True)
    assert staff.post(f"{made.location}/edit", data=form | {"name": "Augusta"}).status_code == 303
    assert "name changed" in staff.get(made.location).text
    assert staff.post(f"{made.location}/delete").location == "/students"
    assert session.scalars(sa.select(Student)).all() == []


def test_a_form_says_what_is_wrong_beside_each_field(staff):
    student(number="1")
    page = staff.post("/students/new", data={"name": "", "number": "1", "enrolled_on": "no date", "class_id": "99"})
    assert page.status_code == 422
    for message in ("Enter a name.", "Not a valid date value.", "Not a valid choice."):
        assert message in page.text
    taken = staff.post("/students/new", data={"name": "Ada", "number": "1", "enrolled_on": "2025-08-01"})
    assert "Another student of the school has this number." in taken.text


def test_a_guardian_is_added_by_login_restricted_with_a_reason_and_removed(staff, session):
    child, person = student(), make_user(name="Paula Parent")
    one = f"/students/{child.id}"
    unknown = staff.post(f"{one}/guardians/new", data={"person": "nowhere"})
    assert (unknown.status_code, "No user has this username or email address." in unknown.text) == (422, True)
    other = make_user(school_id=second_school().id)
    assert staff.post(f"{one}/guardians/new", data={"person": other.email}).status_code == 422
    added = staff.post(f"{one}/guardians/new", data={"person": f" {person.email} ", "relation": "mother"})
    assert added.location == one
    twice = staff.post(f"{one}/guardians/new", data={"person": person.username})
    assert "Already a guardian of this student." in twice.text
    kept = session.scalars(sa.select(Guardian)).one()
    edit = f"{one}/guardians/{kept.id}"
    refused = staff.post(edit, data={"relation": "mother", "is_restricted": "y"})
    assert (refused.status_code, "Enter the reason of the restriction." in refused.text) == (422, True)
    assert staff.post(edit, data={"is_restricted": "y", "restriction_reason": "Custody"}).location == one
    page = staff.get(one).text
    assert re.search(r"contact restricted</span> Custody", page)
    assert "guardian Paula Parent, contact restriction: no → yes" in page
    assert staff.post(f"{edit}/remove").location == one
    assert "guardian removed: Paula Parent" in staff.get(one).text
    assert session.scalars(sa.select(Guardian)).all() == []


def test_classes_are_listed_with_their_students_renamed_and_deleted(staff, session):
    assert "No classes yet" in staff.get("/classes").text
    made = staff.post("/classes/new", data={"name": "7b"})
    assert "No enrolled students" in staff.get(made.location).text
    taken = staff.post("/classes/new", data={"name": "7b"})
    assert (taken.status_code, "Another class of the school has this name." in taken.text) == (422, True)
    of_school = session.scalars(sa.select(SchoolClass)).one()
    child = student(of_school, name="Ada")
    assert re.search(r'data-label="Students">1<', staff.get("/classes").text)
    assert names(staff.get(made.location).text) == ["Ada"]
    assert staff.post(f"{made.location}/edit", data={"name": "8b"}).location == made.location
    assert "8b has 1 student" in staff.get(staff.post(f"{made.location}/delete").location).text
    session.delete(child)
    session.commit()
    assert staff.post(f"{made.location}/delete").location == "/classes"
    assert session.scalars(sa.select(SchoolClass)).all() == []


def test_admins_create_edit_disable_and_enable_schools(admin, session):
    form = {"name": "Westside", "slug": "westside", "time_zone": "Europe/Berlin"}
    assert admin.post("/schools/new", data=form).location == "/schools"
    refused = admin.post("/schools/new", data=form | {"slug": "west side"})
    assert (refused.status_code, "Must consist of lower-case letters" in refused.text) == (422, True)
    school = session.scalars(sa.select(School).where(School.slug == "westside")).one()
    assert admin.post(f"/schools/{school.id}/edit", data={"name": "West", "time_zone": ""}).location == "/schools"
    session.refresh(school)
    assert (school.name, school.slug, school.time_zone) == ("West", "westside", None)
    page = admin.get("/schools").text
    assert f'action="/schools/{school.id}/disable"' in page
    assert f'action="/schools/{default_school().id}/disable"' not in page
    admin.post(f"/schools/{school.id}/disable")
    assert f'action="/schools/{school.id}/enable"' in admin.get("/schools").text
    admin.post(f"/schools/{school.id}/enable")
    session.refresh(school)
    assert not school.is_disabled


def test_an_admin_cannot_disable_the_school_of_the_installation(admin, session):
    default = default_school()
    admin.post(f"/schools/{default.id}/disable")
    assert "your own school" in admin.get("/schools").text
    session.refresh(default)
    assert not default.is_disabled


def test_the_panel_uses_the_same_services(admin, session):
    school, of_school = second_school(), school_class()
    taken = admin.post("/admin/school_classes/new/", data={"school_id": of_school.school_id, "name": of_school.name})
    assert (taken.status_code, "Another class of the school has this name." in taken.text) == (422, True)
    form = {"school_id": school.id, "number": "1", "name": "Ada", "enrolled_on": "2025-08-01"}
    assert admin.post("/admin/students/new/", data=form | {"class_id": of_school.id}).status_code == 422
    assert admin.post("/admin/students/new/", data=form).status_code == 303
    assert session.scalars(sa.select(Student)).one().school_id == school.id
    disabled = {"action": "disable", "rowid": [school.id], "confirmed": "yes"}
    assert admin.post("/admin/schools/action/", data=disabled).status_code == 303
    session.refresh(school)
    assert school.is_disabled
    of_admin = disabled | {"rowid": [default_school().id]}
    assert admin.post("/admin/schools/action/", data=of_admin).status_code == 409


def test_a_reason_is_shown_to_staff_of_the_school_only(app, staff):
    kept = guardian(student(), restricted="Custody order")
    path = f"/students/{kept.student_id}"
    assert "Custody order" in staff.get(path).text
    assert log_in(app.test_client(), kept.user).get(path).status_code == 403
