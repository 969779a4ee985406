"""The worker for quarantined jobs, which the parent of the workers starts when there are some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask_belfry.db import db
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.quarantine import next_quarantined
from flask_belfry.workers.backlogs import Fetched
from flask_belfry.workers.registration import CHECK_SECONDS
from flask_belfry.workers.threaded import ThreadedWorker


class QuarantineWorker(ThreadedWorker):
    """Runs the quarantined jobs of its queues one at a time, so that a crash has one possible cause; ends when idle."""

    kind = "quarantine"
    ends_when_idle = True
    claims_quarantined = True

    def _capacity_for_slots(self, ending: int) -> dict[str, int]:
        return {}  # they would run beside a quarantined job

    def _is_ready(self) -> bool:
        if self._is_suspended:
            self._pause(CHECK_SECONDS)
        return not self._is_suspended

    def _fetch(self, capacity: Mapping[str, int], *, block: bool) -> Fetched:
        with self._app.app_context():
            id = next_quarantined(db.session(), self.queue_names())
        return Fetched([id] if id else [])

    def _execute(self, claims: Sequence[Claim]) -> None:
        super()._execute(claims)
        self._wait_until_idle()
