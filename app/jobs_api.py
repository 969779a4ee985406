"""The API of jobs: the endpoints of the job system, with the desk's tokens, scopes, errors and documentation."""

from __future__ import annotations

from flask import Flask

from app.api.web import ApiBlueprint, register_api
from flask_belfry.operations.api import add_endpoints

blueprint = ApiBlueprint("jobs", __name__, description="Jobs, batches, queues, pauses and schedules", area="jobs")
add_endpoints(blueprint)


def init_app(app: Flask) -> None:
    """Add the endpoints. Must come after `app.api.web.init_app`."""
    register_api(app, blueprint)
