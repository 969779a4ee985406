"""The locks: every package is pinned, with the hashes of its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_with_hashes(name):
    text = re.sub(r" \\\n +", " ", (ROOT / name).read_text())
    packages = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(packages) > 50
    pinned = re.compile(r"[\w.\[\],-]+==\S+( ; .+?)?( --hash=sha256:[0-9a-f]{64})+")
    assert [line for line in packages if not pinned.fullmatch(line)] == []
