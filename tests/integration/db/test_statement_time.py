"""The time that a thread spends in statements."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from flask_belfry.db import statement_time
from flask_belfry.db.statement_time import statement_seconds


def test_the_time_of_statements_counts_for_their_thread_and_no_other_time_does():
    engine = sa.create_engine("sqlite://")
    statement_time.listen(engine)
    begun, began_at = statement_seconds(), time.monotonic()
    with engine.connect() as connection:
        connection.connection.dbapi_connection.create_function("wait", 0, lambda: time.sleep(0.05))
        connection.execute(sa.text("SELECT wait()"))
        time.sleep(0.05)
        connection.execute(sa.text("SELECT wait()"))
    most = time.monotonic() - began_at - 0.05
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(statement_seconds()))
    thread.start()
    thread.join()
    assert 0.1 <= statement_seconds() - begun <= most
    assert found == [0.0]
