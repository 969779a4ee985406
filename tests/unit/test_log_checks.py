"""The check of the logs of processes that tests start."""

from __future__ import annotations

import logging
import sys

import pytest

from tests.processes import Processes, check_log

PROGRAM = "import logging; logging.basicConfig(); logging.warning('%d rows', {0})"


def test_a_process_that_could_not_write_a_line_fails_its_test(tmp_path):
    for value, is_well in (("7", True), ("'seven'", False)):
        processes = Processes({}, tmp_path)
        assert processes.run("python", "-c", PROGRAM.format(value)) == 0
        if is_well:
            processes.kill_all()
        else:
            with pytest.raises(AssertionError, match="a line was not logged"):
                processes.kill_all()


def test_a_line_that_is_not_written_in_this_process_is_noted_with_its_traceback(logging_errors):
    handler = logging.StreamHandler(sys.stderr)
    handler.emit(logging.makeLogRecord({"name": "library", "msg": "%d rows", "args": ("seven",)}))
    logging_errors.seek(0)
    noted = logging_errors.read()
    logging_errors.truncate(0)
    assert "library: '%d rows'" in noted
    assert "TypeError" in noted
    check_log(noted)  # the handler has printed the rest to stderr
