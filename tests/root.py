"""A composition root with the test's domain: what FLASK_APP names in processes that tests start."""

from __future__ import annotations

import jobs
import tests.domain  # noqa: F401 - registers its jobs and hooks
from app import create_app

app = create_app()
jobs.init_app(app)
