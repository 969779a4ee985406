"""Several workers under one parent that replaces those that die: RQ's pool, whose children cannot miss a signal."""

from __future__ import annotations

import signal
from typing import Any

from rq.worker_pool import WorkerPool

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Pool(WorkerPool):
    """RQ's pool.

    A child begins with its parent's signal handlers. A signal that came before it has its own would stop its siblings
    and not itself, and the pool would wait for it for ever: so signals wait until `accept_stop_signals`.
    """

    def start_worker(self, *args: Any, **kwargs: Any) -> None:
        """Forks a worker with the stop signals held back."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start_worker(*args, **kwargs)
        finally:
            accept_stop_signals()


def accept_stop_signals() -> None:
    """Called by whoever has set handlers for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
