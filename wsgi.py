"""The web's composition root: the application with its pages and its jobs. `flask --app wsgi` loads it too."""

from __future__ import annotations

import gc

import jobs
from app import create_app

app = create_app()
jobs.init_app(app)
# A full collection of what lives as long as the process would stop all threads for about 90 ms, and find nothing.
gc.freeze()
