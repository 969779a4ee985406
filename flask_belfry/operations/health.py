"""Health checks for load balancers and monitoring: liveness and readiness."""

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
    """Return 200 while the process serves requests."""
    return jsonify(status="ok")


@health.get("/readyz")
@public
def ready() -> ResponseReturnValue:
    """Return 200 if the database is available, else 503. Broker and scheduler are reported only: requests work without
    them."""
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
