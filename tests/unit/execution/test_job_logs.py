"""The handler of job logs in processes that fork."""

from __future__ import annotations

import logging
import os
import signal
import threading

from flask_belfry.execution.job_logs import JobLogHandler


def test_a_forked_process_can_log_although_the_handler_has_no_lock() -> None:
    # Alive at the fork: in the child, logging prepares the locks of all handlers again, and then its own.
    handler = JobLogHandler()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        # Waits for the lock of the module, which the thread that forked holds.
        thread = threading.Thread(target=logging.getLogger, args=("tests.unit.execution.forked",))
        thread.start()
        thread.join()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert handler.lock is None
