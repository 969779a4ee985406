"""The pool of SMTP sessions, with sessions that do what a server does at an awkward moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flask_belfry.mail.errors import ServerUnreachableError
from flask_belfry.mail.pool import SessionPool


class Session:
    """A session; `on_open` is what happens when it is opened."""

    is_open = True
    idle_seconds = 0.0

    def __init__(self, on_open: Callable[[], None] = lambda: None) -> None:
        self._on_open = on_open

    def open(self, *, is_only_one: bool = True) -> None:
        self._on_open()

    def close(self) -> None:
        self.is_open = False


def test_a_session_that_is_refused_for_an_idle_one_is_replaced_by_it() -> None:
    def lend_to_another_thread() -> None:
        def use() -> None:
            with pool.lend():
                pass

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        raise ServerUnreachableError("421 too many connections", 421)

    admitted = Session()
    sessions = iter([Session(lend_to_another_thread), admitted])
    pool = SessionPool(lambda: next(sessions))
    with pool.lend() as lent:
        assert lent is admitted
    pool.close()
