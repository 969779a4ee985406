"""The web's composition root: the application with its pages and its jobs. `flask --app wsgi` loads it too."""

from __future__ import annotations

import jobs
from app import create_app

app = create_app()
jobs.init_app(app)
