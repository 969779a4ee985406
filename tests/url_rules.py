"""The application's routes with ids, and the rows that a request could change."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask, url_for
from werkzeug.routing import AnyConverter, Rule, UUIDConverter

from app.accounts import User
from app.accounts.models import AccountCode
from app.reservations import Reservation
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord


def routes(app: Flask, *methods: str, is_api: bool) -> list[tuple[str, str, str]]:
    """The endpoint, method and path of every route that takes one of these methods, with the first of all ids."""
    with app.test_request_context():
        return [
            (rule.endpoint, method, url_for(rule.endpoint, **{name: some_id(rule, name) for name in rule.arguments}))
            for rule in app.url_map.iter_rules()
            for method in sorted(rule.methods or ())
            if method in methods and rule.rule.startswith("/api/") is is_api
        ]


def some_id(rule: Rule, name: str) -> object:
    converter = rule._converters[name]
    if isinstance(converter, AnyConverter):
        return min(converter.items)
    return UUID(int=1) if isinstance(converter, UUIDConverter) else 1


def rows(session) -> list[Any]:
    """All that a request could have changed."""
    session.rollback()
    models = (User, Reservation, JobRecord, EmailMessage, AccountCode)
    return [session.execute(sa.select(model.__table__).order_by(sa.text("id"))).all() for model in models]
