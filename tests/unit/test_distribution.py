"""The distribution: `make build` puts all files of the packages into the wheel, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "flask_belfry", "jobs")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and a source archive, built as the Makefile does."""
    folder = tmp_path_factory.mktemp("dist")
    (command,) = re.findall(r"^\t@\$\(BIN\)/(uv build .*) --python", (ROOT / "Makefile").read_text(), re.MULTILINE)
    uv = [Path(sys.executable).with_name("uv"), *command.split()[1:]]
    done = subprocess.run(
        [*uv, "--out-dir", folder], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_has_all_files_of_the_packages_and_no_others(built: Path) -> None:
    (wheel,) = built.glob("belfry-*-py3-none-any.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    found = {name for name in names if ".dist-info/" not in name}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    assert found == {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    for name in ("flask_belfry/operations/templates/operations/jobs.html", "app/static/app.css", "app/static/app.js"):
        assert name in found


def test_the_source_archive_has_what_a_deployment_starts_and_migrates(built: Path) -> None:
    (archive,) = built.glob("belfry-*.tar.gz")
    with tarfile.open(archive) as opened:
        found = {name.partition("/")[2] for name in opened.getnames()}
    started = {"Makefile", "Procfile", "cli.py", "requirements.txt", "scheduler.py", "webserver.py", "wsgi.py"}
    migrations = {path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("*.py")}
    assert started | migrations <= found
    assert not {name for name in found if name.startswith((".venv/", "instance/", "tests/"))}


def test_the_wheel_requires_what_the_locks_are_made_from() -> None:
    lines = (ROOT / "requirements.in").read_text().splitlines()
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert dependencies == [line for line in lines if line and not line.startswith("#")]
