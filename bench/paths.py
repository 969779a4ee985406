"""What the pages of operations and mail are asked for: every path of the url map, and common searches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from uuid import UUID

from werkzeug.routing import AnyConverter, Rule

import jobs
from app import create_app
from bench.errors import BenchError
from bench.history import SCHOOL_OF_BATCHES
from flask_belfry.scheduler.schedule import CUSTOM_PREFIX

# The blueprints of the API are the application's.
MODULES = "flask_belfry.operations.", "flask_belfry.mail.", "app.jobs_api", "app.mails_api"
# The check of a load balancer reads no history, and the inbox of development no database.
OTHERS = ("/healthz", "/readyz", "/dev/")
# Of the rows whose pages are asked for, one that the viewers of one school see too.
ROWS = {
    "job_id": "SELECT id FROM job_records WHERE state = 'failed' AND school_id = {school} ORDER BY id DESC",
    "batch_id": "SELECT id FROM job_batches WHERE finished_at IS NULL",
    "group_id": "SELECT id FROM failure_groups WHERE school_id = {school} ORDER BY last_seen_at DESC",
    "operation_id": "SELECT id FROM bulk_operations WHERE school_id = {school}",
    "mail_id": "SELECT id FROM email_messages WHERE school_id = {school} ORDER BY id DESC",
}
NAMES = {
    "/schedule/": f"{CUSTOM_PREFIX}{SCHOOL_OF_BATCHES}.history",
    "/api/v1/jobs/schedule/": "reservations.sweep_overdue",
    "/mails/previews/": "reservation-new",
}
PLACEHOLDER = re.compile(r"<[^>]+>")
JOB_LISTS, MAIL_LISTS = ("/jobs/", "/api/v1/jobs"), ("/mails", "/api/v1/mails")
SPANS = [
    f"{path}?span={span}"
    for path in ("/operations", "/operations/live", "/api/v1/jobs/stats")
    for span in ("24h", "7d")
]
# It answers nothing without a search.
NEEDS_SEARCH = "/api/v1/jobs/operations/preview"
FILTERED = (
    f"{NEEDS_SEARCH}?kind=retry&q=state%3Afailed",
    "/jobs/?state=failed",
    "/jobs/failures?text=refused",
    "/jobs/failures?state=all",
    "/jobs/operations/new?kind=retry&q=state%3Afailed",
    "/jobs/enqueue?job=reservations.sweep_overdue",
    "/mails?state=failed",
    "/mails/suppressions?text=office",
)
SEARCHES_OF_JOBS = (
    "state:failed",
    "state:completed name:slice.job_3",
    "state:failed,retryable since:2h",
    "name:slice.*",
    "name:mail.deliver queue:mail",
    "queue:bulk",
    "subject:Reservation/42",
    "subject:Reservation",
    "args.reservation_id:42",
    "error:ConnectionRefusedError",
    "tenant:3",
    "since:2h",
    "since:2h until:1h",
    "refused",
    "absent",
)
SEARCHES_OF_MAILS = (
    "state:failed",
    "state:sent kind:kind-3",
    "kind:kind-*",
    "to:office@example.org",
    "to:user40@example.org",
    "to:*@example.org",
    "user40@example.org",
    "subject:Reservation/42",
    "since:2h",
    "tenant:3",
    "absent",
)


class Rows(Protocol):
    """A database with a history."""

    def query(self, statement: str) -> Any:
        """Return the first row of a query, or None."""


def all_paths(ground: Rows) -> list[str]:
    """Return the path of every page, fragment and JSON list of operations and mail, and those with common searches."""
    values = {name: _first(ground, query) for name, query in ROWS.items()}
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(environ={"APP_ENV": "testing"}, instance_path=Path(folder))
        jobs.init_app(app)
    modules = {name: blueprint.import_name for name, blueprint in app.blueprints.items()}
    found: set[str] = set()
    for rule in app.url_map.iter_rules():
        module = modules.get(rule.endpoint.rpartition(".")[0], "")
        if "GET" in (rule.methods or ()) and module.startswith(MODULES) and not rule.rule.startswith(OTHERS):
            found.update(_filled(rule, values))
    searches = [(SEARCHES_OF_JOBS, JOB_LISTS), (SEARCHES_OF_MAILS, MAIL_LISTS)]
    found.update(f"{path}?q={quote(text)}" for texts, lists in searches for text in texts for path in lists)
    return sorted(found - {NEEDS_SEARCH} | {*SPANS, *FILTERED})


def _first(ground: Rows, query: str) -> str:
    row = ground.query(f"{query.format(school=SCHOOL_OF_BATCHES)} LIMIT 1")
    if row is None:
        raise BenchError(f"the history is too short: no row for {query}")
    return str(UUID(str(row[0])))


def _filled(rule: Rule, values: Mapping[str, str]) -> Iterator[str]:
    """Return the paths of a rule: one for each of the parts that its last argument may name."""
    path, parts = rule.rule, [""]
    for name in rule.arguments:
        converter = rule._converters[name]  # noqa: SLF001 - Werkzeug has no other way to the values of a converter
        placeholder = next(each for each in PLACEHOLDER.findall(path) if each.removesuffix(">").endswith(name))
        if isinstance(converter, AnyConverter):
            parts, path = sorted(converter.items), path.replace(placeholder, "{part}")
        elif name == "name":
            path = path.replace(placeholder, next(value for start, value in NAMES.items() if path.startswith(start)))
        elif name in values:
            path = path.replace(placeholder, values[name])
        else:
            raise BenchError(f"no value is known for {name} of {rule.rule}")
    yield from (path.replace("{part}", part) for part in parts)
