"""API of schools, classes, students and their guardians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for

from app.accounts import acting_user, require
from app.api.web import ApiBlueprint, QueryOfPage, check_stale, page_response, page_schema, versioned
from app.directory import queries, schools, services
from app.directory.models import Guardian, SchoolClass, Student
from app.directory.rules import ADMINS_ONLY, CHANGE_SCHOOLS, STAFF_ONLY, VIEW, VIEW_SCHOOLS
from app.directory.schemas import (
    ClassChangesSchema,
    ClassSchema,
    GuardianChangesSchema,
    GuardianSchema,
    NewClassSchema,
    NewGuardianSchema,
    NewSchoolSchema,
    NewStudentSchema,
    SchoolChangesSchema,
    SchoolSchema,
    StudentChangesSchema,
    StudentQuery,
    StudentSchema,
)
from app.schools import School
from flask_belfry.core.presentation import date_today
from flask_belfry.db import commit_and_keep, db

school_endpoints = ApiBlueprint("schools", __name__, description="Schools", area="directory")
class_endpoints = ApiBlueprint("classes", __name__, description="Classes of the school", area="directory")
student_endpoints = ApiBlueprint("students", __name__, description="Students and their guardians", area="directory")

SCHOOL, CLASS, STUDENT = "/schools/<id:school_id>", "/classes/<id:class_id>", "/students/<id:student_id>"
GUARDIANS = f"{STUDENT}/guardians"
GUARDIAN = f"{GUARDIANS}/<id:guardian_id>"


@school_endpoints.before_request
def check_may_view_schools() -> None:
    """Refuse users who are not staff."""
    require(acting_user(), VIEW_SCHOOLS, message=ADMINS_ONLY)


@class_endpoints.before_request
@student_endpoints.before_request
def check_may_view() -> None:
    """Refuse users who are not staff."""
    require(acting_user(), VIEW, message=STAFF_ONLY)


@school_endpoints.route("/schools")
@school_endpoints.arguments(QueryOfPage, location="query")
@school_endpoints.response(200, page_schema(SchoolSchema))
def list_schools(query: dict[str, Any]) -> Mapping[str, Any]:
    """List schools by name: all for admins, their own for staff"""
    return page_response(schools.page(acting_user(), **query))


@school_endpoints.route("/schools", methods=["POST"])
@versioned
@school_endpoints.arguments(NewSchoolSchema)
@school_endpoints.response(201, SchoolSchema)
def create_school(values: dict[str, Any]) -> tuple[School, int, dict[str, str]]:
    """Create a school, for admins"""
    school = schools.create_school(acting_user(), **values)
    commit_and_keep()
    return school, 201, {"Location": url_for("api_schools.get_school", school_id=school.id)}


@school_endpoints.route(SCHOOL)
@versioned
@school_endpoints.response(200, SchoolSchema)
def get_school(school_id: int) -> School:
    """Get a school"""
    return schools.get(acting_user(), school_id)


@school_endpoints.route(SCHOOL, methods=["PATCH"])
@versioned
@school_endpoints.arguments(SchoolChangesSchema)
@school_endpoints.response(200, SchoolSchema)
def change_school(changes: dict[str, Any], school_id: int) -> School:
    """Change the name or the time zone of a school, for admins"""
    school = _lock_school(school_id)
    schools.change_school(acting_user(), school, changes)
    commit_and_keep()
    return school


@school_endpoints.route(f"{SCHOOL}/disable", methods=["POST"])
@versioned
@school_endpoints.response(200, SchoolSchema)
@school_endpoints.alt_response(409, description="It is your own school, or that of the installation.")
def disable_school(school_id: int) -> School:
    """Disable a school, for admins: its users cannot log in, nothing is sent for it, and nothing is deleted"""
    school = _lock_school(school_id)
    schools.disable_school(acting_user(), school)
    commit_and_keep()
    return school


@school_endpoints.route(f"{SCHOOL}/enable", methods=["POST"])
@versioned
@school_endpoints.response(200, SchoolSchema)
def enable_school(school_id: int) -> School:
    """Enable a school again, for admins: logins and tokens work as before"""
    school = _lock_school(school_id)
    schools.enable_school(acting_user(), school)
    commit_and_keep()
    return school


@class_endpoints.route("/classes")
@class_endpoints.arguments(QueryOfPage, location="query")
@class_endpoints.response(200, page_schema(ClassSchema))
def list_classes(query: dict[str, Any]) -> Mapping[str, Any]:
    """List classes by name"""
    return page_response(queries.page_of_classes(**query))


@class_endpoints.route("/classes", methods=["POST"])
@versioned
@class_endpoints.arguments(NewClassSchema)
@class_endpoints.response(201, ClassSchema)
def create_class(values: dict[str, Any]) -> tuple[SchoolClass, int, dict[str, str]]:
    """Create a class"""
    school_class = services.create_class(acting_user(), **values)
    commit_and_keep()
    return school_class, 201, {"Location": url_for("api_classes.get_class", class_id=school_class.id)}


@class_endpoints.route(CLASS)
@versioned
@class_endpoints.response(200, ClassSchema)
def get_class(class_id: int) -> SchoolClass:
    """Get a class"""
    return queries.get_class(class_id)


@class_endpoints.route(CLASS, methods=["PATCH"])
@versioned
@class_endpoints.arguments(ClassChangesSchema)
@class_endpoints.response(200, ClassSchema)
def change_class(changes: dict[str, Any], class_id: int) -> SchoolClass:
    """Change the name of a class"""
    school_class = _lock_class(class_id)
    services.change_class(acting_user(), school_class, changes)
    commit_and_keep()
    return school_class


@class_endpoints.route(CLASS, methods=["DELETE"])
@versioned
@class_endpoints.response(204)
@class_endpoints.alt_response(409, description="The class has students: move them to another class first.")
def delete_class(class_id: int) -> None:
    """Delete a class without students"""
    services.delete_class(acting_user(), _lock_class(class_id), today=date_today())
    db.session.commit()


@student_endpoints.route("/students")
@student_endpoints.arguments(StudentQuery, location="query")
@student_endpoints.response(200, page_schema(StudentSchema))
def list_students(query: dict[str, Any]) -> Mapping[str, Any]:
    """List students by name"""
    limit, cursor, is_enrolled = query.pop("limit"), query.pop("cursor"), query.pop("enrolled", None)
    if is_enrolled is not None:
        query["enrolled_on" if is_enrolled else "not_enrolled_on"] = date_today()
    return page_response(queries.page_of_students(queries.Filters(**query), limit=limit, cursor=cursor))


@student_endpoints.route("/students", methods=["POST"])
@versioned
@student_endpoints.arguments(NewStudentSchema)
@student_endpoints.response(201, StudentSchema)
def create_student(values: dict[str, Any]) -> tuple[Student, int, dict[str, str]]:
    """Create a student"""
    student = services.create_student(acting_user(), **values)
    commit_and_keep()
    return student, 201, {"Location": url_for("api_students.get_student", student_id=student.id)}


@student_endpoints.route(STUDENT)
@versioned
@student_endpoints.response(200, StudentSchema)
def get_student(student_id: int) -> Student:
    """Get a student"""
    return queries.get_student(student_id)


@student_endpoints.route(STUDENT, methods=["PATCH"])
@versioned
@student_endpoints.arguments(StudentChangesSchema)
@student_endpoints.response(200, StudentSchema)
def change_student(changes: dict[str, Any], student_id: int) -> Student:
    """Change fields of a student, all or nothing"""
    student = _lock_student(student_id)
    services.change_student(acting_user(), student, changes)
    commit_and_keep()
    return student


@student_endpoints.route(STUDENT, methods=["DELETE"])
@versioned
@student_endpoints.response(204)
def delete_student(student_id: int) -> None:
    """Delete a student who was entered by mistake; for one who leaves, set `left_on`"""
    services.delete_student(acting_user(), _lock_student(student_id))
    db.session.commit()


@student_endpoints.route(GUARDIANS)
@student_endpoints.arguments(QueryOfPage, location="query")
@student_endpoints.response(200, page_schema(GuardianSchema))
def list_guardians(query: dict[str, Any], student_id: int) -> Mapping[str, Any]:
    """List the guardians of a student, in the order in which they were added"""
    return page_response(queries.page_of_guardians(queries.get_student(student_id), **query))


@student_endpoints.route(GUARDIANS, methods=["POST"])
@versioned
@student_endpoints.arguments(NewGuardianSchema)
@student_endpoints.response(201, GuardianSchema)
def add_guardian(values: dict[str, Any], student_id: int) -> tuple[Guardian, int, dict[str, str]]:
    """Make a user a guardian of a student"""
    student = queries.get_student(student_id, for_update=True)
    guardian = services.add_guardian(acting_user(), student, **values)
    commit_and_keep()
    location = url_for("api_students.get_guardian", student_id=student_id, guardian_id=guardian.id)
    return guardian, 201, {"Location": location}


@student_endpoints.route(GUARDIAN)
@versioned
@student_endpoints.response(200, GuardianSchema)
def get_guardian(student_id: int, guardian_id: int) -> Guardian:
    """Get a guardian of a student"""
    return queries.get_guardian(student_id, guardian_id)


@student_endpoints.route(GUARDIAN, methods=["PATCH"])
@versioned
@student_endpoints.arguments(GuardianChangesSchema)
@student_endpoints.response(200, GuardianSchema)
def change_guardian(changes: dict[str, Any], student_id: int, guardian_id: int) -> Guardian:
    """Change the relation or the contact restriction of a guardian"""
    guardian = _lock_guardian(student_id, guardian_id)
    services.change_guardian(acting_user(), guardian, changes)
    commit_and_keep()
    return guardian


@student_endpoints.route(GUARDIAN, methods=["DELETE"])
@versioned
@student_endpoints.response(204)
def remove_guardian(student_id: int, guardian_id: int) -> None:
    """Remove a guardian from a student"""
    services.remove_guardian(acting_user(), _lock_guardian(student_id, guardian_id))
    db.session.commit()


def _lock_school(school_id: int) -> School:
    """Load the row of a write with its lock, and check `If-Match` on it."""
    require(acting_user(), CHANGE_SCHOOLS, message=ADMINS_ONLY)  # staff see only their own
    school = schools.get(acting_user(), school_id, for_update=True)
    check_stale(SchoolSchema, school)
    return school


def _lock_class(class_id: int) -> SchoolClass:
    school_class = queries.get_class(class_id, for_update=True)
    check_stale(ClassSchema, school_class)
    return school_class


def _lock_student(student_id: int) -> Student:
    student = queries.get_student(student_id, for_update=True)
    check_stale(StudentSchema, student)
    return student


def _lock_guardian(student_id: int, guardian_id: int) -> Guardian:
    guardian = queries.get_guardian(student_id, guardian_id, for_update=True)
    check_stale(GuardianSchema, guardian)
    return guardian
