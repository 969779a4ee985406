"""The cases, by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.cases.backlog import backlog
from bench.cases.batch import batch
from bench.cases.cli import cli
from bench.cases.job_list import job_list
from bench.cases.limit import limit
from bench.cases.mails import mails, mails_50ms
from bench.cases.memory import memory
from bench.cases.noop import noop
from bench.cases.notifications import (
    bulk_mails,
    bulk_mails_50ms,
    notification_accept,
    push_50ms,
    reset_in_bulk,
    scheduled_lateness,
)
from bench.cases.pages import pages
from bench.cases.registration import registration
from bench.cases.sweep import sweep
from bench.cases.web import patch, request_to_smtp
from bench.figures import Comparison
from bench.ground import Grounds
from bench.plan import Plan

Case = Callable[[Grounds, Plan], Iterator[Comparison]]

CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        noop,
        limit,
        batch,
        backlog,
        mails,
        mails_50ms,
        patch,
        request_to_smtp,
        registration,
        notification_accept,
        bulk_mails,
        bulk_mails_50ms,
        push_50ms,
        scheduled_lateness,
        reset_in_bulk,
        sweep,
        pages,
        job_list,
        cli,
        memory,
    )
}
