"""For machines that watch: is the process alive, and can it do its work."""

from __future__ import annotations

import redis
import sqlalchemy as sa
from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from app.access import public
from app.extensions import db
from app.outbox import publisher

health = Blueprint("health", __name__)


@health.get("/healthz")
@public
def alive() -> ResponseReturnValue:
    """200 as long as the process answers."""
    return jsonify(status="ok")


@health.get("/readyz")
@public
def ready() -> ResponseReturnValue:
    """200 when the database answers, else 503. Without the broker requests still work, so it is named and no more."""
    database = _database_answers()
    broker = _broker_takes_jobs()
    answer = {"database": _word(database), "broker": _word(broker)}
    return jsonify(status=_word(database), parts=answer), 200 if database else 503


def _database_answers() -> bool:
    try:
        db.session.execute(sa.text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def _broker_takes_jobs() -> bool:
    try:
        publisher().probe()
    except redis.RedisError:
        return False
    return True


def _word(is_well: bool) -> str:
    return "ok" if is_well else "unavailable"
