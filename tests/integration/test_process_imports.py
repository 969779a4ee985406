"""What a process imports: only the web process has pages, forms and the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context

from app import ABOVE_PAGES, BELOW_PAGES, create_app

ROOT = Path(__file__).resolve().parents[2]
# Libraries, and our modules that need them.
PAGES = {"flask_admin", "flask_security", "flask_smorest", "flask_wtf", "marshmallow", "passlib", "webargs", "wtforms"}
# Every process imports the checks of requests that settings and models name.
OUR_PAGES = {*BELOW_PAGES, *ABOVE_PAGES, "app.api.docs", "app.web.forms"} - {"app.web.bodies", "app.web.proxies"}
MIGRATIONS = {"alembic", "flask_migrate", "mako"}
ENDS_OF_WEB_MODULES = (".views", "_views", "_pages", ".forms", ".schemas", ".web")
CALL = """
import json, sys
{program}
print(json.dumps(sorted(sys.modules)))
"""
PROGRAMS = {
    "web": "import wsgi",
    "scheduler": "import cli, scheduler; cli.create()",
    "worker": "import cli; group = cli.create().cli.get_command(None, 'jobs'); group.get_command(None, 'worker')",
    "a command": "import cli; group = cli.create().cli.get_command(None, 'jobs'); group.get_command(None, 'stats')",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that the process of each role has imported before it begins its work."""
    folder = tmp_path_factory.mktemp("roles")
    environ = os.environ | {
        "APP_ENV": "development",
        "DATABASE_URL": f"sqlite:///{folder}/unused.sqlite3",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    return {role: _imported(program, environ) for role, program in PROGRAMS.items()}


def _imported(program: str, environ: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(program=program)],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def _pages(modules: set[str]) -> set[str]:
    ours = {name for name in modules if name.split(".")[0] in ("app", "flask_belfry")}
    return (modules & PAGES) | {
        name for name in ours if name in OUR_PAGES or (name.endswith(ENDS_OF_WEB_MODULES) and name != "app.web")
    }


@pytest.mark.parametrize("role", ["scheduler", "worker", "a command"])
def test_only_the_web_process_imports_pages_forms_and_the_api(imported, role) -> None:
    assert _pages(imported[role]) == set()
    assert {"flask_admin", "flask_security", "app.accounts.views", "app.work_items.forms"} <= _pages(imported["web"])


@pytest.mark.parametrize("role", PROGRAMS)
def test_only_a_command_of_migrations_imports_alembic(imported, role) -> None:
    assert imported[role] & MIGRATIONS == set()


@pytest.mark.parametrize("role", PROGRAMS)
def test_the_libraries_of_push_are_imported_with_the_first_message(imported, role) -> None:
    assert imported[role] & {"app.push.fcm", "google.auth", "urllib3"} == set()


@pytest.mark.parametrize("role", ["web", "scheduler", "a command"])
def test_only_a_worker_imports_the_worker_processes(imported, role) -> None:
    assert "flask_belfry.workers.pool" not in imported[role]
    assert "flask_belfry.workers.pool" in imported["worker"]


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_a_process_imports_no_command_but_its_own(imported, role) -> None:
    own = {"worker": {"flask_belfry.operations.jobs_cli", "flask_belfry.operations.worker_cli"}}.get(role, set())
    assert {name for name in imported[role] if name.endswith("cli") and name.startswith(("app", "flask_b"))} == own


@pytest.mark.parametrize("role", PROGRAMS)
def test_only_the_live_view_of_jobs_imports_rich(imported, role) -> None:
    """structlog would, wherever it is installed."""
    assert imported[role] & {"pygments", "rich"} == set()


def test_the_commands_are_listed_without_their_modules(tmp_path) -> None:
    app = create_app(environ={"APP_ENV": "development"}, instance_path=tmp_path, with_web=False)
    names = app.cli.list_commands(Context(app.cli))
    assert names == [
        "audit",
        "batches",
        "db",
        "demo",
        "dev",
        "doctor",
        "failures",
        "jobs",
        "mail",
        "notifications",
        "queues",
        "schedule",
        "schools",
        "users",
        "work-items",
    ]
