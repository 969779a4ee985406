"""The route of the metrics: without a token it is for this machine only, see operations/test_metrics.py."""

from __future__ import annotations

from app.accounts import User
from tests.tenancy import EVERYBODY, Route, many

ROUTES: dict[tuple[str, str], Route] = {("metrics.metrics", "GET"): many(EVERYBODY, "/metrics")}

UNSCOPED = ()


def make_rows(user: User) -> dict[str, str]:
    """Nothing: no path has an id."""
    return {}
