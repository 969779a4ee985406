"""The web process over the test's domain."""

from __future__ import annotations

import jobs
from app import create_app
from app.extensions import csrf
from flask_belfry.db import db
from tests.domain import Ticket  # which registers its jobs and hooks too

app = create_app()
jobs.init_app(app)


@app.post("/tickets")
@csrf.exempt
def add_ticket() -> str:
    """As a page does, write a row, whose listener enqueues a job, and commit."""
    ticket = Ticket()
    db.session.add(ticket)
    db.session.commit()
    return str(ticket.id)
