"""The pool of SMTP sessions, with sessions that do what a server does at an awkward moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import chain, repeat
from pathlib import Path

from flask_belfry.execution.attempts import frame_of
from flask_belfry.mail.errors import ServerBusyError, ServerUnreachableError
from flask_belfry.mail.pool import SessionPool

ROOT = Path(__file__).parents[3]


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


def test_all_threads_that_meet_an_outage_fail_in_the_same_frame() -> None:
    """One of those that wait for a session fails with the error of another thread, and is in the same group of
    failures."""
    waiting = threading.Semaphore(0)
    has_failed = threading.Event()

    def refuse() -> None:
        raise ServerUnreachableError("cannot use mail.example:25: Connection refused")

    def refuse_while_three_wait() -> None:
        for _ in range(3):
            assert waiting.acquire(timeout=10)
        refuse()

    def refuse_after_another_failed() -> None:
        assert has_failed.wait(10)
        refuse()

    def lend(should_stop: Callable[[], bool]) -> None:
        with pool.lend(should_stop):
            pass

    def wait_for_session() -> None:
        is_noted = False

        def note() -> bool:
            nonlocal is_noted
            if not is_noted:
                waiting.release()
            is_noted = True
            return False

        lend(note)

    admitted = Session()
    refusals = chain((refuse, refuse_while_three_wait), repeat(refuse_after_another_failed))
    sessions = chain([admitted], map(Session, refusals))
    pool = SessionPool(lambda: next(sessions))
    with ThreadPoolExecutor(4) as threads:
        with pool.lend():  # the server admits no other session: the next ones wait
            assert isinstance(threads.submit(lend, lambda: True).exception(10), ServerBusyError)
            admitted.is_open = False
        lent = [threads.submit(wait_for_session) for _ in range(4)]
        ended = as_completed(lent, 10)
        errors = [next(ended).exception() for _ in range(2)]  # the one that opened a session, and one that waited
        has_failed.set()
        errors += [each.exception() for each in ended]
    assert {type(error) for error in errors} == {ServerUnreachableError}
    assert {frame_of(error, ROOT) for error in errors if error} == {
        "tests/unit/mail/test_pool.py:test_all_threads_that_meet_an_outage_fail_in_the_same_frame.<locals>.refuse"
    }
