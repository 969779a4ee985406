"""The handler of job logs in processes that fork."""

from __future__ import annotations

import os

from flask_belfry.execution.job_logs import JobLogHandler


def test_a_forked_process_can_log_although_the_handler_has_no_lock(capfd) -> None:
    handler = JobLogHandler()  # alive, so that logging would set its lock up again in the child
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert handler.lock is None
    assert "_at_fork_reinit" not in capfd.readouterr().err
