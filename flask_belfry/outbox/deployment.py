"""Identifies a deployment by its database, and checks that no other deployment uses its Redis database.

RQ and rq-scheduler use fixed keys for queues, delayed jobs and workers, so deployments that share a Redis database
would mix them: the first deployment owns it, and the others refuse to use it.
"""

from __future__ import annotations

import math
import time
from typing import Any

import redis
import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.db.columns import database_now
from flask_belfry.outbox.errors import ForeignBrokerError
from flask_belfry.outbox.models import Deployment

OWNER_KEY = "belfry:deployment"
# Absent when Redis has lost its data: the scheduler then schedules all delayed jobs again.
MEMORY_KEY = "belfry:timers"
CHECK_SECONDS = 15.0
# When Redis has lost its data the owner takes it again first: a deployment that was refused waits this long.
PRECEDENCE_SECONDS = 60.0

# Some providers of PostgreSQL deny it to their customers.
_MAY_READ_PLACE = sa.text("SELECT has_function_privilege('pg_control_system()', 'execute')")
# A copy of the database has the same row, but is another deployment while the original exists.
_PLACE = sa.text(
    "SELECT c.system_identifier::text || '/' || d.oid"
    " FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()"
)


class BrokerOwnership:
    """Checks whether a Redis database belongs to this deployment, and takes one that has no owner.

    `deployment_id` is known after the first call of `learn`; before it, nothing is checked.
    """

    def __init__(self) -> None:
        self.deployment_id: str | None = None
        self._checked_at = self._refused_at = -math.inf

    def learn(self, session: Session) -> None:
        """Read the deployment's id in the open transaction, once in a process."""
        if self.deployment_id is None:
            self.deployment_id = _read_id(session)

    def check(self, connection: redis.Redis, *, every_seconds: float = CHECK_SECONDS) -> None:
        """Raise ForeignBrokerError when another deployment owns the Redis database.

        Args:
            connection: a client of that database.
            every_seconds: how long a successful check stays valid.
        """
        if self.deployment_id is None or time.monotonic() - self._checked_at < every_seconds:
            return
        owner = self._ask(connection)
        if owner != self.deployment_id:
            self._checked_at, self._refused_at = -math.inf, time.monotonic()
            raise ForeignBrokerError(
                f"the Redis database belongs to deployment {owner}, not to this one ({self.deployment_id}): give each"
                " deployment a Redis database of its own (REDIS_URL), or take this one over with"
                " `flask jobs take-broker` when this database was restored or moved"
            )
        self._checked_at = time.monotonic()

    def take(self, connection: redis.Redis) -> None:
        """Make this deployment the owner, in place of others. The scheduler then schedules the delayed jobs again."""
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.set(OWNER_KEY, self.deployment_id or "")
            pipeline.delete(MEMORY_KEY)
            pipeline.execute()

    def _ask(self, connection: redis.Redis) -> str:
        # Usually only a read, so that workers can finish the queued jobs of a Redis that is full.
        owner: Any = connection.get(OWNER_KEY)
        if owner is None and time.monotonic() - self._refused_at >= PRECEDENCE_SECONDS:
            connection.set(OWNER_KEY, self.deployment_id or "", nx=True)
            owner = connection.get(OWNER_KEY)
        if owner is None:
            raise ForeignBrokerError(
                "the Redis database has lost its data; its last owner, another deployment, takes it first"
            )
        return owner.decode(errors="replace")


def _read_id(session: Session) -> str:
    connection = session.connection()
    id: str = connection.execute(sa.select(Deployment.id)).scalars().one()
    if connection.dialect.name == "postgresql" and connection.execute(_MAY_READ_PLACE).scalar_one():
        id += f"/{connection.execute(_PLACE).scalar_one()}"
    return id


def scheduler_passes(session: Session) -> bool:
    """Return whether a scheduler of this deployment has finished a pass within RESCUE_AFTER_SECONDS."""
    is_recent = Deployment.scheduler_passed_at >= database_now(-current_app.config["RESCUE_AFTER_SECONDS"])
    return session.scalar(sa.select(Deployment.id).where(is_recent)) is not None
