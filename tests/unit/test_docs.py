"""The documentation agrees with the code, and its examples run."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import sqlalchemy as sa
import time_machine
from flask.cli import FlaskGroup, ScriptInfo
from jinja2 import ChoiceLoader, DictLoader
from sqlalchemy.orm import Session

import app as application
from app.config import GROUPS, SETTINGS
from app.reservations import Reservation
from flask_belfry.changes import Change, on_change, subject_of
from flask_belfry.changes import listeners as changes
from flask_belfry.core.clock import utc_now
from flask_belfry.core.settings import Derived, Setting
from flask_belfry.db import db
from flask_belfry.execution import RetryPolicy, claim, executor, job
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import (
    EmailMessage,
    MailEntry,
    MailRequest,
    MailState,
    mail_kind,
    registry,
    send_mail,
    send_mails,
)
from flask_belfry.mail.previews import preview
from flask_belfry.mail.rendering import Renderer
from flask_belfry.outbox import JobRecord, JobRequest, JobState, enqueue, enqueue_many
from flask_belfry.outbox import registry as job_registry
from flask_belfry.outbox.states import TRANSITIONS
from flask_belfry.scheduler import ScheduleEntry
from tests.conftest import make_app
from tests.reservation_factories import make_reservation

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]}
README, SETTINGS_PAGE = PAGES["README.md"], PAGES["settings.md"]
OWN_COMMANDS = (
    "audit",
    "batches",
    "failures",
    "jobs",
    "queues",
    "schedule",
    "mail",
    "users",
    "demo",
    "doctor",
    "work-items",
    "notifications",
    "schools",
)
NO_SETTINGS = {"NO_RETRY"}
MAX_IMAGE_BYTES = 150_000


class Block(NamedTuple):
    """A fenced block of a page; `path` is the file that its first line names."""

    language: str
    text: str
    path: str | None


def blocks(page: str) -> list[Block]:
    found = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        head = re.match(r"(?:# |\{# )(\S+/[\w./-]+\.(?:py|txt|html))\b", text)
        found.append(Block(language, text, head[1] if head else None))
    return found


def code_spans(page: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def section(page: str, heading: str) -> str:
    return re.split(r"^## ", page.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


def default_text(setting: Setting) -> str:
    match setting.default:
        case Derived(words=words):
            return words
        case None:
            return "unset"
        case bool(value):
            return f"`{value}`".lower()
        case tuple(delays):
            return f"`{','.join(map(str, delays))}`"
        case float(value):
            return f"`{value:g}`"
        case value:
            return f"`{value}`"


def row(setting: Setting) -> str:
    return f"| `{setting.name}` | {setting.parse.valid_values} | {default_text(setting)} | {setting.why} |"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: Setting) -> None:
    assert row(setting) in SETTINGS_PAGE.splitlines(), "docs/settings.md lacks the row above"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = {line.split("`")[1] for line in SETTINGS_PAGE.splitlines() if line.startswith("| `")}

    assert documented == {setting.name for setting in SETTINGS}


def test_every_setting_is_read_somewhere() -> None:
    packages = [path for folder in ("app", "flask_belfry", "jobs") for path in (ROOT / folder).rglob("*.py")]
    paths = [*packages, *ROOT.glob("*.py"), ROOT / "Procfile"]
    where_defined = (ROOT / "app" / "config.py", ROOT / "app" / "defaults.py")
    code = "\n".join(path.read_text() for path in paths if not any(path.is_relative_to(p) for p in where_defined))
    unread = {setting.name for setting in SETTINGS if not re.search(rf"\b{setting.name}\b", code)}
    assert unread == {"WEB_CONCURRENCY"}, "gunicorn reads WEB_CONCURRENCY; nothing reads the others"


@pytest.mark.parametrize("heading", [group.heading for group in GROUPS])
def test_every_group_of_settings_has_its_heading(heading: str) -> None:
    assert f"## {heading}" in SETTINGS_PAGE.splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_that_a_page_names_exists(name: str) -> None:
    spans = {span.partition("=")[0] for span in code_spans(PAGES[name])}
    named = {span for span in spans if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", span)}
    assert named - NO_SETTINGS <= {setting.name for setting in SETTINGS}


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> tuple[click.Group, click.Context]:
    """Return `flask` with this application's commands, and a context for looking them up."""
    environ = {"APP_ENV": "testing", "DATABASE_URL": "sqlite:///unused.sqlite3", "REDIS_URL": "redis://127.0.0.1:1"}
    app = make_app(environ, tmp_path_factory.mktemp("cli"))
    group = FlaskGroup(create_app=lambda: app)
    return group, click.Context(group, obj=ScriptInfo(create_app=lambda: app))


def command_of(cli: tuple[click.Group, click.Context], line: str) -> tuple[click.Command, list[str]]:
    """Return the command of a line, and the remaining words."""
    command, context = cli
    words = line.removeprefix("flask ").removeprefix("--app wsgi ").split()
    while isinstance(command, click.Group) and words and re.match(r"[a-z]", words[0]):
        found = command.get_command(context, words[0])
        assert found is not None, f"`{line}`: there is no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")} - {"--help"}


def options_by_name(command: click.Command, name: str, context: click.Context) -> dict[str, set[str]]:
    """Return the options of a command, or of each command of a group that does nothing by itself."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        return {name: options_of(command)}
    children = {child: command.get_command(context, child) for child in command.list_commands(context)}
    found = [options_by_name(each, f"{name} {child}", context) for child, each in children.items() if each]
    return dict(chain.from_iterable(options.items() for options in found))


def command_lines(page: str) -> list[str]:
    typed = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    return [line for line in [*code_spans(page), *typed] if line.startswith("flask ")]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_names_exists_with_its_options(name: str, cli: Any) -> None:
    for line in command_lines(PAGES[name]):
        command, rest = command_of(cli, line)
        named = {word for word in rest if word.startswith("--")}
        # Commands of Flask and of its extensions have their options elsewhere.
        assert named <= options_of(command), line


def test_the_readme_lists_each_of_our_commands_with_all_its_options(cli: Any) -> None:
    group, context = cli
    expected: dict[str, set[str]] = {}
    for name in OWN_COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        expected |= options_by_name(command, name, context)

    listed: dict[str, set[str]] = {}
    for typed, says in rows(section(README, "The command line")):
        words = [word for word in typed.strip("`").split()[1:] if word.islower()]
        listed[" ".join(words)] = set(re.findall(r"`(--[a-z-]+)`", says))

    assert listed == expected


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_that_a_page_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spans = [re.sub(r"^[A-Z]+=\S+ ", "", span) for span in code_spans(PAGES[name])]
    assert {span.split()[1] for span in spans if span.startswith("make ")} <= targets


def test_the_readme_shows_the_procfile_as_it_is() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    shown = {cells[0]: cells[1].strip("`") for cells in table(section(README, "What runs")) if "`" in cells[1]}
    assert shown.keys() == lines.keys()
    for name, command in shown.items():
        assert lines[name].startswith(command.removesuffix(" …")), name


def table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_no_page_starts_a_worker_of_rq_that_runs_any_function() -> None:
    """RQ's own classes run whatever function a job in Redis names."""
    commands = [text for page in PAGES.values() for text in re.findall(r"`(rq worker(?:-pool)? [^`]+)`", page)]
    assert len(commands) >= 2
    assert [command for command in commands if " -w flask_belfry.workers." not in command] == []


@pytest.mark.parametrize("path", re.findall(r"-w (flask_belfry\.[\w.]+)", README))
def test_the_worker_classes_that_the_readme_names_exist(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert inspect.isclass(getattr(importlib.import_module(module), name))


def test_every_test_that_the_page_on_security_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)`", PAGES["security.md"])
    assert len(named) > 20
    paths = [ROOT / name if name.startswith("tests/") else ROOT / "tests/integration" / name for name in named]
    assert [path.name for path in paths if not path.exists()] == []


# ── Links ────────────────────────────────────────────────────────────────────────────────────────────────────────


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_points_to_something_that_exists(name: str) -> None:
    here = ROOT if (ROOT / name).exists() else ROOT / "docs"
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`\n]*`", "", PAGES[name])):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = here / target if target else here / name
        assert path.is_file(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(path), f"{name} links to {link}"


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_exists(name: str) -> None:
    created = {block.path for block in blocks(PAGES[name])}
    folders = "app|bench|docs|flask_belfry|jobs|tests"
    named = {span for span in code_spans(PAGES[name]) if re.fullmatch(rf"({folders})/[\w./-]+\.\w+", span)}
    assert {path for path in named - created if not (ROOT / path).is_file()} == set()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_every_image_is_shown_somewhere_and_small(path: Path) -> None:
    assert any(f"images/{path.name})" in page for page in PAGES.values())
    assert path.stat().st_size <= MAX_IMAGE_BYTES


# ── States ───────────────────────────────────────────────────────────────────────────────────────────────────────

LIFECYCLE = PAGES["lifecycle.md"]
ALLOWED = {(source.value, target.value) for source, targets in TRANSITIONS.items() for target in targets}


def test_every_state_of_a_job_is_documented_and_no_other() -> None:
    assert [cells[0].strip("`") for cells in rows(section(LIFECYCLE, "States"))] == list(JobState)


def test_every_transition_is_in_the_table_once_and_no_other() -> None:
    listed = [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows(section(LIFECYCLE, "Transitions"))]
    assert sorted(listed) == sorted(ALLOWED)


def test_every_transition_is_in_the_diagram_once_and_no_other() -> None:
    arrows = re.findall(r"^ +(\w+) --> (\w+): ", section(LIFECYCLE, "Transitions"), re.MULTILINE)
    assert sorted(arrows) == sorted(ALLOWED)


def test_every_state_of_a_mail_is_documented_and_no_other() -> None:
    assert [cells[0].strip("`") for cells in rows(section(PAGES["mail.md"], "States of a mail"))] == list(MailState)


# ── Names ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["accounts.md", "lifecycle.md", "mail.md", "operations.md", "work-items.md"])
def test_every_job_action_and_log_event_that_a_page_names_exists(name: str) -> None:
    paths = [path for folder in ("app", "flask_belfry", "jobs") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in paths)
    spans = {span for span in code_spans(PAGES[name]) if re.fullmatch(r"(?!parts\.)[a-z_]+\.[a-z_]+", span)}
    files = {path.name for path in [*(ROOT / "app").rglob("*.*"), *ROOT.glob("*.py")]}
    assert {span for span in spans - files if f'"{span}"' not in code} == set()


def enqueued_names() -> dict[str, str]:
    """Return the job names that the application enqueues, each with the file that does it."""
    found: dict[str, str] = {}
    for path in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "flask_belfry").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in calls(tree):
            if isinstance(call.func, ast.Name) and call_name(call) in {"enqueue", "enqueue_many"} and call.args:
                first = call.args[0]
                name = constants.get(first.id) if isinstance(first, ast.Name) else getattr(first, "value", None)
                if isinstance(name, str):
                    found[name] = str(path.relative_to(ROOT))
    return found


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def call_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def test_every_name_that_the_application_enqueues_is_a_registered_job() -> None:
    enqueued = enqueued_names()
    assert "mail.deliver" in enqueued, "the search finds nothing"
    registered = {found.name for found in job_registry.definitions()}
    assert {name: path for name, path in enqueued.items() if name not in registered} == {}


def test_every_job_of_the_project_has_a_name_of_its_module_and_a_docstring() -> None:
    for found in job_registry.definitions():
        package, _, module = found.function.__module__.partition(".")
        if package == "jobs":
            assert found.name.startswith(f"{module}."), found.name
            assert inspect.getdoc(found.function), found.name


OWN_MAILS = [kind for kind in registry.kinds() if kind.contexts.__module__.startswith(("app.", "flask_belfry."))]
MAIL_TEMPLATES = (ROOT / "app" / "templates" / "email", ROOT / "flask_belfry" / "mail" / "templates" / "email")
MAIL_FOLDERS = {path.name: path for folder in MAIL_TEMPLATES for path in folder.iterdir() if path.is_dir()}


def test_every_folder_of_mail_templates_belongs_to_a_mail() -> None:
    assert set(MAIL_FOLDERS) == {kind.folder for kind in OWN_MAILS}


@pytest.mark.parametrize("name", [kind.name for kind in OWN_MAILS])
def test_every_mail_has_its_three_templates_and_a_sample_that_renders(name: str, tmp_path: Path) -> None:
    assert sorted(path.name for path in MAIL_FOLDERS[registry.kind_of(name).folder].iterdir()) == [
        "body.html",
        "body.txt",
        "subject.txt",
    ]
    environ = {"APP_ENV": "testing", "DATABASE_URL": "sqlite:///unused.sqlite3", "REDIS_URL": "redis://127.0.0.1:1"}
    with make_app(environ, tmp_path).app_context():
        mail = preview(name)
    assert mail.subject
    assert "\n" not in mail.subject
    assert mail.text.strip()
    assert "<style" not in mail.html.partition("<body")[2]


def test_every_folder_with_models_and_pages_is_among_the_slices() -> None:
    folders = {path.parent.name for path in (ROOT / "app").glob("*/models.py") if (path.parent / "views.py").exists()}
    missing = folders - {name.rpartition(".")[2] for name in application.SLICES}
    assert "reservations" in folders
    assert missing == set(), "add these to SLICES in app/__init__.py"


def test_every_slice_is_imported_through_its_public_api_only() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    shut = {name for contract in contracts for name in contract.get("protected_modules", ())}
    missing = {f"{name}.*" for name in application.SLICES} - shut
    assert missing == set(), "pyproject.toml: add a contract with these protected_modules, as that of app.reservations"


# ── Examples ─────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        enqueue, enqueue_many, job, mail_kind, on_change, send_mail, send_mails,
        JobRequest, MailRequest, RetryPolicy, ScheduleEntry,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_every_call_in_an_example_fits_its_function(name: str) -> None:
    spans = [span for span in code_spans(PAGES[name]) if re.fullmatch(r"\w+\(.*\)", span) and "…" not in span]
    for code in [*(block.text for block in blocks(PAGES[name]) if block.language == "python"), *spans]:
        for call in calls(ast.parse(code.replace("…", "..."))):
            # A method of a job definition has the parameters of its job function.
            function = SHOWN_FUNCTIONS.get(call_name(call)) if isinstance(call.func, ast.Name) else None
            if function is not None and (call.args or call.keywords):
                keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(function).bind(*call.args, **keywords)


@pytest.fixture
def untouched_registries() -> Iterator[None]:
    """Remove after the test what an example has registered."""
    jobs_before, mails_before = dict(job_registry._definitions), dict(registry._kinds)
    watch = changes._tracked_models[Reservation]
    hooks_before = {column: list(hooks) for column, hooks in watch.changed.items()}
    yield
    for live, before in ((job_registry._definitions, jobs_before), (registry._kinds, mails_before)):
        live.clear()
        live.update(before)
    watch.changed.clear()
    watch.changed.update(hooks_before)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_example_of_the_readme_runs(settings: dict[str, Any], tmp_path: Path, untouched_registries: None) -> None:
    names = {
        "Change": Change, "MailEntry": MailEntry, "Reservation": Reservation, "Sequence": Sequence,
        "Session": Session, "subject_of": subject_of, "timedelta": timedelta, **SHOWN_FUNCTIONS,
    }  # fmt: skip
    shown = [block for block in blocks(README) if block.language == "python"]
    for block in shown:
        assert block.path is not None
        assert (ROOT / block.path).is_file()
        exec(compile(block.text, block.path, "exec"), names | {"__name__": "readme"})
    app = make_app(settings, tmp_path)
    folder = "email/reservation-reminder"
    templates = {f"{folder}/{part}": "Reservation #{{ number }}" for part in ("subject.txt", "body.txt", "body.html")}
    app.jinja_env.loader = ChoiceLoader([DictLoader(templates), app.jinja_env.loader])  # pyright: ignore[reportArgumentType]
    app.extensions["mail_renderer"] = Renderer(app)
    with app.app_context():
        assert preview("reservation-reminder").subject == "Reservation #42"
        session = db.session()
        reservation = make_reservation()
        reservation.status = "confirmed"
        session.commit()
        (reminder,) = session.scalars(sa.select(JobRecord).where(JobRecord.name == "reservations.remind"))
        assert reminder.state is JobState.SCHEDULED
        session.rollback()
        with time_machine.travel(utc_now() + timedelta(days=1, seconds=1), tick=True):
            ends = executor.run(app, claim.claim(session, [reminder.id], "test"), no_limit)
        assert ends == [(reminder.id, JobState.COMPLETED)]
        (mail,) = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "reservation-reminder"))
        assert mail.recipients == [reservation.customer.email]
        assert session.get(JobRecord, mail.job_id).state is JobState.PENDING
        db.session.remove()
        db.engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_examples_of_steps_and_snoozes_run(
    settings: dict[str, Any], tmp_path: Path, untouched_registries: None
) -> None:
    for heading in ("Steps", "Snooze and Retry-After"):
        for block in blocks(section(PAGES["groups.md"], heading)):
            exec(compile(block.text, heading, "exec"), {"__name__": "groups"})
    app = make_app(settings, tmp_path)
    with app.app_context():
        session = db.session()
        users = {make_reservation().customer_id for _ in range(3)}

        def run(name: str, **args: Any) -> JobRecord:
            id = enqueue(name, bulletin_id=7, **args)
            session.commit()
            executor.run(app, claim.claim(session, [id], "test"), no_limit)
            return session.get_one(JobRecord, id, populate_existing=True)

        assert run("bulletins.address").result == {"since_the_last_interruption": len(users)}
        deliveries = session.scalars(sa.select(JobRecord).where(JobRecord.name == "bulletins.deliver"))
        assert {record.args["user_id"] for record in deliveries} == users
        snoozed = run("bulletins.push", is_maintained=True, retry_after=None)
        assert (snoozed.state, snoozed.snoozes) == (JobState.SCHEDULED, 1)
        retried = run("bulletins.push", is_maintained=False, retry_after="3600")
        assert retried.scheduled_at is not None
        assert timedelta(minutes=59) < retried.scheduled_at - utc_now() < timedelta(minutes=67)
        db.session.remove()
        db.engine.dispose()


def line_changes(block: Block) -> Iterator[tuple[str, str, str]]:
    """Yield the file, the old and the new lines of each part of a block that changes lines."""
    for part in re.split(r"^--- ", block.text, flags=re.MULTILINE)[1:]:
        path, *lines = part.splitlines()
        old, new = ("\n".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
        yield path, old, new


RECIPES = blocks(PAGES["recipes.md"])
LINE_CHANGES = [change for block in RECIPES if block.language == "diff" for change in line_changes(block)]


@pytest.mark.parametrize(("path", "old"), [(path, old) for path, old, _ in LINE_CHANGES])
def test_the_lines_that_a_recipe_changes_are_in_their_file(path: str, old: str) -> None:
    count = f"\n{(ROOT / path).read_text()}".count(f"\n{old}\n")
    assert count == 1, f"change the block of docs/recipes.md to the lines that {path} has: {old}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project to which the recipes were applied."""
    copy = tmp_path / "project"
    leave = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("app", "bench", "docs", "flask_belfry", "jobs", "migrations", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    for block in RECIPES:
        if block.path is not None:
            path = copy / block.path
            assert not path.exists(), f"{block.path} exists: the recipe would overwrite it"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub(r"\A(# |\{# ).*\n", "", block.text))
        elif block.language == "toml":
            (copy / "pyproject.toml").write_text((copy / "pyproject.toml").read_text() + "\n" + block.text)
    for name, old, new in LINE_CHANGES:
        path = copy / name
        path.write_text(path.read_text().replace(f"{old}\n", f"{new}\n", 1))
    return copy


def _run(project: Path, *command: str) -> None:
    program = Path(sys.executable).parent / command[0]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "FLASK"))}
    environ |= {"APP_ENV": "development"}
    done = subprocess.run(
        [program, *command[1:]], check=False, cwd=project, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


# The slice's own tests, and those that find what a slice may lack.
TESTS_OF_A_SLICE = (
    "tests/integration/lost_items/test_lost_items.py",
    "tests/integration/schools/test_tenancy_routes.py",
    "tests/integration/test_personal_data.py::test_every_column_that_names_a_user_is_in_a_part_or_exempt_for_a_reason",
    "tests/integration/audit/test_audit_log.py::test_every_action_that_is_recorded_is_under_a_tab",
    "tests/integration/admin/test_panel.py::test_every_model_is_in_the_panel_or_left_out_for_a_reason",
    "tests/integration/admin/test_panel.py::test_what_can_only_be_looked_at_has_no_address_for_more",
    "tests/integration/web/test_navigation.py::test_every_other_page_is_in_the_navigation_or_leads_back",
    "tests/integration/accounts/test_token_pages.py::test_every_scope_is_a_box_with_what_it_allows",
    "tests/unit/test_docs.py::test_every_name_that_the_application_enqueues_is_a_registered_job",
    "tests/unit/test_docs.py::test_every_job_of_the_project_has_a_name_of_its_module_and_a_docstring",
    "tests/unit/test_docs.py::test_every_folder_of_mail_templates_belongs_to_a_mail",
    "tests/unit/test_docs.py::test_every_folder_with_models_and_pages_is_among_the_slices",
    "tests/unit/test_docs.py::test_every_slice_is_imported_through_its_public_api_only",
)


@pytest.mark.slow
def test_the_recipes_make_a_slice_that_works(project: Path) -> None:
    (typed,) = [block.text for block in blocks(PAGES["recipes.md"]) if block.language == "sh"]
    for line in typed.splitlines():
        _run(project, *re.sub(r'"([^"]*)"', lambda quoted: quoted[1].replace(" ", "_"), line).split())
    _run(project, "flask", "--app", "wsgi", "mail", "preview", "lost-item-found")
    _run(project, "flask", "--app", "wsgi", "jobs", "enqueue", "lost_items.give_away_old")
    _run(project, "ruff", "check")
    _run(project, "ruff", "format", "--check")
    _run(project, "pyright", "app/lost_items", "jobs/lost_items.py")
    _run(project, "lint-imports", "--no-logo")
    _run(project, "python", "cli.py", "dev", "check-migrations")
    _run(project, "vulture")
    _run(project, "pytest", "-q", "-p", "no:cacheprovider", "-k", "not postgresql", *TESTS_OF_A_SLICE)
