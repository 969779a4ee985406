"""The routes of groups of failures, and what another school has of them."""

from __future__ import annotations

from app.accounts import User
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.statistics import FailureGroup
from tests.tenancy import OPERATOR, STAFF, Route, many, one

LIST, API_LIST = "/jobs/failures", "/api/v1/jobs/failures"
GROUP, API_GROUP = f"{LIST}/{{failure}}", f"{API_LIST}/{{failure}}"
VERBS = ("see", "resolve", "ignore", "reopen")

ROUTES: dict[tuple[str, str], Route] = {
    ("failures.list_", "GET"): many(STAFF, LIST, f"{LIST}?state=all&text=Zarathustra"),
    ("failures.list_live", "GET"): many(STAFF, f"{LIST}/live", f"{LIST}/live?state=new"),
    ("failures.detail", "GET"): one(STAFF, GROUP),
    ("failures.detail_live", "GET"): one(STAFF, f"{GROUP}/live"),
    ("failures.change", "POST"): Route(OPERATOR, tuple(f"{GROUP}/{verb}" for verb in VERBS), status=404),
    ("failures.retry", "POST"): one(OPERATOR, f"{GROUP}/retry", canary="5", per_second="5"),
    ("api_jobs.list_failures", "GET"): many(STAFF, API_LIST, f"{API_LIST}?state=all&text=Zarathustra"),
    ("api_jobs.get_failure", "GET"): one(STAFF, API_GROUP),
    **{(f"api_jobs.{verb}_failure", "POST"): one(OPERATOR, f"{API_GROUP}/{verb}") for verb in VERBS},
    ("api_jobs.retry_failure", "POST"): one(OPERATOR, f"{API_GROUP}/retry", canary=5, per_second=5),
}

UNSCOPED: tuple[str, ...] = ()


def make_rows(user: User) -> dict[str, str]:
    """A group of failures of the user's school."""
    now = utc_now()
    group = FailureGroup(
        school_id=user.school_id,
        fingerprint=new_id()[-16:],
        job_name="test.fail",
        error_type="ValueError",
        message=f"{user.name} does not exist",
        job_id=new_id(),
        first_seen_at=now,
        last_seen_at=now,
    )
    db.session.add(group)
    db.session.commit()
    return {"failure": group.id}
