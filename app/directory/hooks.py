"""The changes of schools, classes, students and guardians that the audit log records."""

from __future__ import annotations

from app.audit import record_creations, watch_deletions
from app.directory.models import Guardian, SchoolClass, Student
from app.schools import School
from flask_belfry.changes import record_changes

record_changes(School.name, School.time_zone, School.disabled_at)
record_changes(SchoolClass.name)
record_changes(Student.number, Student.class_id, Student.enrolled_on, Student.left_on)
# The names of people are not recorded, nor why a guardian may not be contacted.
record_changes(Student.name, Guardian.restriction_reason, secret=True)
record_changes(Guardian.relation, Guardian.is_restricted)
# Guardians are added to and removed from a student, which the services record.
record_creations(School, SchoolClass, Student)
watch_deletions(School, SchoolClass, Student)
