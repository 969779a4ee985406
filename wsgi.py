"""The web's composition root, and what `flask --app wsgi` loads: the application with its jobs."""

from __future__ import annotations

import jobs
from app import create_app

app = create_app()
jobs.init_app(app)
