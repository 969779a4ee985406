"""The bench runs: a case with few mails and without the peers, who are not installed for tests."""

from __future__ import annotations

import re

from bench.__main__ import run
from bench.plan import Plan


def test_a_case_prints_a_figure_of_belfry_alone(monkeypatch, capsys):
    monkeypatch.setattr("bench.ground.LIMIT_SECONDS", 60)
    assert run(["mails"], Plan(databases=("sqlite",), rounds=1, scale=0.005, alone=True), as_table=False)
    assert re.fullmatch(r"mails\.sqlite\.belfry [\d.]+ mails/s\n", capsys.readouterr().out)
