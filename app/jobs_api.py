"""The API of jobs: the endpoints of the job system, with the desk's tokens, scopes, errors and documentation."""

from __future__ import annotations

from flask import Flask

from app.api.web import ApiBlueprint, register_api
from flask_belfry.operations import api, bulk_api, failures_api, runtime_api

blueprint = ApiBlueprint(
    "jobs", __name__, description="Jobs, bulk operations, batches, queues, pauses, schedules and workers", area="jobs"
)
for module in (api, bulk_api, failures_api, runtime_api):
    module.add_endpoints(blueprint)


def init_app(app: Flask) -> None:
    """Add the endpoints. Must come after `app.api.web.init_app`."""
    register_api(app, blueprint)
