"""The directory of a school: its classes, its students and their guardians; and the pages of schools themselves.

The public API of the slice: the models, and the services that the admin panel, notifications and the demo call.
"""

from __future__ import annotations

from flask import Flask

from app.directory import hooks, personal, rules
from app.directory.history import history_of
from app.directory.models import Guardian, SchoolClass, Student
from app.directory.queries import classes_of, enrolled
from app.directory.schools import change_school, create_school, disable_school, enable_school
from app.directory.services import (
    add_guardian,
    change_class,
    change_guardian,
    change_student,
    create_class,
    create_student,
    delete_class,
    delete_student,
    remove_guardian,
)
from flask_belfry.core.presentation import register_subject

__all__ = [
    "Guardian",
    "SchoolClass",
    "Student",
    "add_guardian",
    "change_class",
    "change_guardian",
    "change_school",
    "change_student",
    "classes_of",
    "create_class",
    "create_school",
    "create_student",
    "delete_class",
    "delete_student",
    "disable_school",
    "enable_school",
    "enrolled",
    "history_of",
    "hooks",
    "init_app",
    "personal",
    "remove_guardian",
]

# Importing the slice declares its permissions, its listeners and its personal data.
rules.declare()


def init_app(app: Flask) -> None:
    """Let the audit log link to classes and students. Must come after `presentation.init_app`."""
    register_subject(app, "student", "students.detail", "student_id")
    register_subject(app, "school_class", "classes.detail", "class_id")
