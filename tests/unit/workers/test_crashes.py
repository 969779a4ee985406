"""What ended a process, and children that end with their parent."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from flask_belfry.workers.crashes import describe_exit
from tests.processes import ROOT, has_ended
from tests.servers import wait_until

FAMILY = """
import os, signal, sys, time
from flask_belfry.workers import crashes

parent = os.getpid()
child = os.fork()
if child:
    print(child, flush=True)
else:
    if sys.argv[1] == "thread":  # as where the kernel is not Linux
        crashes._ask_kernel = lambda number: False
    crashes.follow(parent, signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.parametrize(("exit_code", "cause"), [(-9, "SIGKILL"), (-44, "signal 44"), (0, "exit 0"), (75, "exit 75")])
def test_the_cause_of_a_crash_is_named(exit_code, cause):
    assert describe_exit(exit_code) == cause


@pytest.mark.parametrize("means", ["kernel", "thread"])
def test_a_child_that_follows_its_parent_ends_when_that_is_killed(means):
    command = [sys.executable, "-c", FAMILY, means]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: has_ended(child), seconds=10)
