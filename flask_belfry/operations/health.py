"""For machines that watch: is the process alive, and can it do its work."""

from __future__ import annotations

import redis
import sqlalchemy as sa
from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.core.access import public
from flask_belfry.db import db
from flask_belfry.outbox import publisher
from flask_belfry.outbox.deployment import scheduler_passes
from flask_belfry.outbox.errors import ForeignBrokerError

health = Blueprint("health", __name__)


@health.get("/healthz")
@public
def alive() -> ResponseReturnValue:
    """200 as long as the process answers."""
    return jsonify(status="ok")


@health.get("/readyz")
@public
def ready() -> ResponseReturnValue:
    """200 when the database answers, else 503. Without the broker or a scheduler requests still work, so they are named
    and no more."""
    try:
        db.session.execute(sa.text("SELECT 1"))
        publisher().ownership.learn(db.session())
        scheduler = scheduler_passes(db.session())
    except SQLAlchemyError:
        parts = {"database": "unavailable", "broker": _broker(), "scheduler": "unknown"}
        return jsonify(status="unavailable", parts=parts), 503
    parts = {"database": "ok", "broker": _broker(), "scheduler": "ok" if scheduler else "unavailable"}
    return jsonify(status="ok", parts=parts), 200


def _broker() -> str:
    broker = publisher()
    try:
        broker.ownership.check(broker.connection, every_seconds=0)
        broker.probe()
    except ForeignBrokerError:
        return "of another deployment"
    except redis.RedisError:
        return "unavailable"
    return "ok"
