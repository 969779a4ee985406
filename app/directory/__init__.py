"""The directory of a school: its classes, its students and their guardians."""

from __future__ import annotations

from flask import Flask

from app.directory.models import Guardian, SchoolClass, Student

__all__ = [
    "Guardian",
    "SchoolClass",
    "Student",
    "init_app",
]


def init_app(app: Flask) -> None:
    """Add what the slice needs."""
