"""Requests that arrive at the same moment, each on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_belfry.db import db


def at_once(app: Flask, number: int, ask: Callable[[FlaskClient], TestResponse]) -> list[TestResponse]:
    """What `ask` is answered by `number` clients that begin together."""
    db.session.rollback()  # on SQLite, an open transaction may block writers
    barrier = threading.Barrier(number)

    def client(_: Any) -> TestResponse:
        barrier.wait(10)
        return ask(app.test_client())

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(client, range(number)))
