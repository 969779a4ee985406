"""The dashboard, the alerts and the table of metrics use what `/metrics` exports, with its labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import WorkerProcess
from flask_belfry.statistics import JobTotals, QueueSample, Release, RollUp
from tests.promql import parse

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DOCS = Path(__file__).parents[3] / "docs"
ALERTS = yaml.safe_load((DOCS / "alerts.yml").read_text())
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text())
# What Prometheus adds itself.
OF_PROMETHEUS = {"up": {"job", "instance"}}
LABEL = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


class Use(NamedTuple):
    """An expression, where it is, and the texts that show labels of its results."""

    where: str
    expression: str
    texts: list[str]


def uses() -> Iterator[Use]:
    for rule in ALERTS["groups"][0]["rules"]:
        yield Use(rule["alert"], rule["expr"], list(rule["annotations"].values()))
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield Use(panel["title"], target["expr"], [target["legendFormat"]])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield Use(annotation["name"], annotation["expr"], [annotation["titleFormat"]])


@pytest.fixture
def families(client, session) -> list[Metric]:
    now = utc_now()
    session.add_all(
        [
            JobTotals(name="test.greet", queue="default"),
            QueueSample(at=now, queue="mail", waiting=0, running=0, scheduled=0, blocked=0),
            WorkerProcess(name="one", kind="light", host="here", pid=1, memory_bytes=1),
            RollUp(name="jobs", complete_until=now),
            Release(name="1", first_seen_at=now),
        ]
    )
    session.commit()
    return list(text_string_to_metric_families(client.get("/metrics").text))


@pytest.fixture
def labels(families: list[Metric]) -> dict[str, set[str]]:
    """The names of the labels of each sample."""
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@ONCE
def test_every_expression_is_promql_over_metrics_and_labels_that_exist(labels):
    known = labels | OF_PROMETHEUS
    for where, expression, texts in uses():
        parsed = parse(expression)
        assert parsed.selectors, where
        of_expression = set().union(*(known[name] for name, _ in parsed.selectors))
        for name, matched in parsed.selectors:
            assert matched <= known[name], where
        assert parsed.grouped_by <= of_expression, where
        shown = {label for text in texts for label in LABEL.findall(text)}
        assert shown <= parsed.grouped_by, f"{where}: what is not grouped by a label does not have it"


@ONCE
def test_every_metric_is_in_the_table_of_the_page_with_its_labels(families):
    rows = re.findall(r"^\| `(belfry_\w+)` \| (\w+) \| ([\w, ]*)\|", (DOCS / "monitoring.md").read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    exported: dict[str, Any] = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        exported[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    assert documented == exported


@ONCE
def test_names_follow_the_rules_of_prometheus(families):
    for family in families:
        assert re.fullmatch(r"belfry_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        # Base units, and a unit wherever there is one.
        assert not re.search(r"milli|minutes|hours|kilo|mega", family.name)
        assert family.type != "histogram" or family.name.endswith("_seconds")


def test_each_alert_says_what_to_do_and_how_urgent_it_is():
    names = [rule["alert"] for rule in ALERTS["groups"][0]["rules"]]
    assert len(set(names)) == len(names)
    for rule in ALERTS["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} == rule["annotations"].keys()
        assert re.fullmatch(r"\d+m", rule["for"])


def test_panels_do_not_overlap_and_use_the_chosen_data_source():
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & own, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    "expression",
    [
        "sum(rate(belfry_workers))",
        "rate(belfry_workers[5m]) >",
        "sum by kind (belfry_workers)",
        "belfry_workers{kind}",
        "belfry_workers{kind=light}",
        "belfry_workers[5]",
        "max(belfry_workers",
        "quotient(belfry_workers)",
        "sum(belfry_workers[5m])",
        "belfry_workers belfry_workers",
    ],
)
def test_the_parser_finds_errors(expression):
    with pytest.raises(ValueError, match=r"."):
        parse(expression)
