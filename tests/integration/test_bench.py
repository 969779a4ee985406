"""The bench runs: a case with few mails and without the peers, who are not installed for tests."""

from __future__ import annotations

import re

from bench.__main__ import run
from bench.cases.pages import WEEK
from bench.plan import Plan


def test_a_case_prints_a_figure_of_belfry_alone(monkeypatch, capsys):
    monkeypatch.setattr("bench.ground.LIMIT_SECONDS", 60)
    assert run(["mails"], Plan(databases=("sqlite",), rounds=1, scale=0.005, alone=True), as_table=False)
    assert re.fullmatch(r"mails\.sqlite\.belfry [\d.]+ mails/s\n", capsys.readouterr().out)


def test_the_list_of_jobs_is_measured_with_its_search_its_api_and_its_memory(monkeypatch, capsys):
    monkeypatch.setattr("bench.ground.LIMIT_SECONDS", 60)
    plan = Plan(databases=("sqlite",), rounds=1, scale=0.004, alone=True)
    assert run(["job_list"], plan, as_table=False)
    figures = dict(re.findall(r"^(\w+)\.sqlite\.belfry ([\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert list(figures) == ["job_list_p50", "job_list_search_p50", "job_list_api_p50", "job_list_memory"]
    assert float(figures["job_list_memory"]) > 0


def test_pages_are_measured_beside_a_history_and_it_is_pruned(monkeypatch, capsys):
    monkeypatch.setattr("bench.ground.LIMIT_SECONDS", 60)
    # All of them are requested in operations/test_listing_plans.py.
    monkeypatch.setattr("bench.paths.all_paths", lambda ground: ["/jobs/", "/api/v1/mails", "/metrics", WEEK])
    assert run(["pages"], Plan(databases=("sqlite",), scale=0.002, alone=True), as_table=False)
    printed = capsys.readouterr()
    figures = dict(re.findall(r"^(\w+)\.sqlite\.belfry ([\d.]+)", printed.out, re.MULTILINE))
    assert {"pages_slowest_p95", "pages_week_p95", "pages_metrics_p95", "pages_dashboards"} <= figures.keys()
    assert float(figures["pages_prune"]) > 0
    for path in ("admin /jobs/", "staff8 /api/v1/mails"):
        assert f"{path}: p50" in printed.err
