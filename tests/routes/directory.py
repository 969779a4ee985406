"""The routes of schools, classes and students, and what another school has of them."""

from __future__ import annotations

from app.accounts import User
from tests.school_factories import guardian, school_class, student
from tests.tenancy import ADMIN, STAFF, Route, many, one

CLASS, STUDENT, SCHOOL = "/classes/{class_}", "/students/{student}", "/schools/{school}"
GUARDIAN = f"{STUDENT}/guardians/{{guardian}}"
STUDENT_FORM = {"number": "1", "name": "Ours now", "enrolled_on": "2025-08-01"}
API = "/api/v1"

ROUTES: dict[tuple[str, str], Route] = {
    ("students.list_", "GET"): many(
        STAFF, "/students?show=all", "/students?text={name}&show=all", "/students?class={class_}"
    ),
    ("students.create", "GET"): many(STAFF, "/students/new", "/students/new?class={class_}"),
    ("students.create", "POST"): Route(STAFF, ("/students/new",), {**STUDENT_FORM, "class_id": "{class_}"}, 422),
    ("students.detail", "GET"): one(STAFF, STUDENT),
    ("students.edit", "GET"): one(STAFF, f"{STUDENT}/edit"),
    ("students.edit", "POST"): one(STAFF, f"{STUDENT}/edit", **STUDENT_FORM),
    ("students.delete", "POST"): one(STAFF, f"{STUDENT}/delete"),
    ("students.add_guardian", "GET"): one(STAFF, f"{STUDENT}/guardians/new"),
    ("students.add_guardian", "POST"): one(STAFF, f"{STUDENT}/guardians/new", person="{address}"),
    ("students.edit_guardian", "GET"): one(STAFF, GUARDIAN),
    ("students.edit_guardian", "POST"): one(STAFF, GUARDIAN, relation="ours now"),
    ("students.remove_guardian", "POST"): one(STAFF, f"{GUARDIAN}/remove"),
    ("classes.list_", "GET"): many(STAFF, "/classes"),
    ("classes.create", "GET"): many(STAFF, "/classes/new"),
    ("classes.create", "POST"): Route(STAFF),
    ("classes.detail", "GET"): one(STAFF, CLASS),
    ("classes.edit", "GET"): one(STAFF, f"{CLASS}/edit"),
    ("classes.edit", "POST"): one(STAFF, f"{CLASS}/edit", name="Ours now"),
    ("classes.delete", "POST"): one(STAFF, f"{CLASS}/delete"),
    ("schools.list_", "GET"): many(ADMIN, "/schools"),
    ("schools.create", "GET"): many(ADMIN, "/schools/new"),
    ("schools.create", "POST"): Route(ADMIN, ("/schools/new",), {"name": "Ours"}),
    ("schools.edit", "GET"): one(ADMIN, f"{SCHOOL}/edit"),
    ("schools.edit", "POST"): one(ADMIN, f"{SCHOOL}/edit", name="Ours now"),
    ("schools.disable", "POST"): one(ADMIN, f"{SCHOOL}/disable"),
    ("schools.enable", "POST"): one(ADMIN, f"{SCHOOL}/enable"),
    ("api_schools.list_schools", "GET"): many(STAFF, f"{API}/schools"),
    ("api_schools.create_school", "POST"): Route(ADMIN, (f"{API}/schools",), {"name": "Ours", "slug": "ours"}),
    ("api_schools.get_school", "GET"): one(STAFF, f"{API}{SCHOOL}"),
    ("api_schools.change_school", "PATCH"): one(ADMIN, f"{API}{SCHOOL}", name="Ours now"),
    ("api_schools.disable_school", "POST"): one(ADMIN, f"{API}{SCHOOL}/disable"),
    ("api_schools.enable_school", "POST"): one(ADMIN, f"{API}{SCHOOL}/enable"),
    ("api_classes.list_classes", "GET"): many(STAFF, f"{API}/classes"),
    ("api_classes.create_class", "POST"): Route(STAFF),
    ("api_classes.get_class", "GET"): one(STAFF, f"{API}{CLASS}"),
    ("api_classes.change_class", "PATCH"): one(STAFF, f"{API}{CLASS}", name="Ours now"),
    ("api_classes.delete_class", "DELETE"): one(STAFF, f"{API}{CLASS}"),
    ("api_students.list_students", "GET"): many(
        STAFF, f"{API}/students", f"{API}/students?text={{name}}", f"{API}/students?class_id={{class_}}&enrolled=true"
    ),
    ("api_students.create_student", "POST"): Route(
        STAFF, (f"{API}/students",), {**STUDENT_FORM, "class_id": "{class_}"}, 422
    ),
    ("api_students.get_student", "GET"): one(STAFF, f"{API}{STUDENT}"),
    ("api_students.change_student", "PATCH"): one(STAFF, f"{API}{STUDENT}", name="Ours now"),
    ("api_students.delete_student", "DELETE"): one(STAFF, f"{API}{STUDENT}"),
    ("api_students.list_guardians", "GET"): one(STAFF, f"{API}{STUDENT}/guardians"),
    ("api_students.add_guardian", "POST"): one(STAFF, f"{API}{STUDENT}/guardians", user_id="{customer}"),
    ("api_students.get_guardian", "GET"): one(STAFF, f"{API}{GUARDIAN}"),
    ("api_students.change_guardian", "PATCH"): one(STAFF, f"{API}{GUARDIAN}", relation="ours now"),
    ("api_students.remove_guardian", "DELETE"): one(STAFF, f"{API}{GUARDIAN}"),
}

# Statements that do not ask for a school: what is kept of oneself, by one's own id.
UNSCOPED = (r"SELECT .* FROM guardians JOIN students ON \S+ = \S+ WHERE guardians\.user_id = \? ORDER BY",)


def make_rows(user: User) -> dict[str, int]:
    """A student of the user's school in a class, of whom the user is a guardian."""
    of_school = school_class(name="Zarathustras class", school_id=user.school_id)
    child = student(of_school, name="Zarathustras child", number=f"Zarathustra {user.id}")
    kept = guardian(child, user, restricted="Zarathustras reason")
    return {"class_": of_school.id, "student": child.id, "guardian": kept.id, "school": user.school_id}
