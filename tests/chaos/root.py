"""The composition root of the processes that the chaos starts: the application with the chaos's own jobs."""

from __future__ import annotations

import jobs
import tests.chaos.domain  # noqa: F401 - registers its jobs
from app import create_app

app = create_app()
jobs.init_app(app)
