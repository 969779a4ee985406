"""The bench reckons rightly, and understands its command line. What it measures is tried in tests/integration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.__main__ import parse
from bench.cases import CASES
from bench.figures import AIMS, Comparison, Quantity, markdown, medians, percentile, rounded, verdicts
from bench.plan import DATABASES, Plan

ROOT = Path(__file__).parents[2]
MAILS = Quantity("mails", "mails/s")


def mails(belfry: float, **peers: float) -> Comparison:
    return Comparison(MAILS, "sqlite", {"belfry": belfry, **peers})


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 50, 2.0),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 201)), 99, 198),
        (list(range(1, 11)), 99, 10),
    ],
)
def test_a_percentile_is_one_of_the_values_by_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


def test_no_values_have_no_percentile():
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 50)


@pytest.mark.parametrize(("value", "text"), [(812.4, "812"), (43.21, "43.2"), (4.321, "4.32"), (0.5, "0.50")])
def test_a_figure_has_as_many_decimals_as_its_size_deserves(value, text):
    assert rounded(value) == text


def test_contestants_take_turns_and_the_median_of_the_rounds_counts():
    turns = []
    rates = {"belfry": iter([10.0, 90.0, 20.0]), "celery": iter([5.0, 4.0, 900.0])}

    def measure(name):
        turns.append(name)
        return {MAILS: next(rates[name])}

    found = medians(3, {name: lambda name=name: measure(name) for name in rates}, say=lambda text: None)

    assert turns == ["belfry", "celery"] * 3
    assert found == {MAILS: {"belfry": 20.0, "celery": 5.0}}


def test_every_figure_is_one_line_and_ratios_follow():
    assert list(mails(800, celery=200, rq=1600).lines()) == [
        "mails.sqlite.belfry 800 mails/s",
        "mails.sqlite.celery 200 mails/s",
        "mails.sqlite.rq 1600 mails/s",
        "mails.sqlite.ratio_to_celery 4.00 x",
        "mails.sqlite.ratio_to_rq 0.50 x",
    ]


def test_a_peer_that_needs_no_database_is_named_without_one():
    comparison = Comparison(Quantity("noop", "jobs/s"), "sqlite", {"belfry": 4.0, "huey": 2.0}, False)
    assert list(comparison.lines()) == [
        "noop.sqlite.belfry 4.00 jobs/s",
        "noop.huey 2.00 jobs/s",
        "noop.sqlite.ratio_to_huey 2.00 x",
    ]


def test_peers_without_a_database_are_measured_once_a_round_and_compared_on_each():
    values = {"sqlite": iter([1.0, 5.0, 3.0]), "postgresql": iter([8.0, 6.0, 7.0]), "rq": iter([4.0, 2.0, 9.0])}
    measures = {name: lambda name=name: {MAILS: next(values[name])} for name in values}

    found = Plan(rounds=3).compare_without_database(
        {name: measures[name] for name in DATABASES}, {"rq": measures["rq"]}
    )

    assert list(found) == [
        Comparison(MAILS, "sqlite", {"belfry": 3.0, "rq": 4.0}, peers_use_database=False),
        Comparison(MAILS, "postgresql", {"belfry": 7.0, "rq": 4.0}, peers_use_database=False),
    ]


def test_an_aim_is_met_at_its_limit_and_missed_beyond():
    told = [verdict.line() for verdict in verdicts([mails(400, celery=100), mails(399, celery=100)])]
    assert told == [
        "met mails.sqlite.ratio_to_celery 4.00 x (at least 4)",
        "missed mails.sqlite.ratio_to_celery 3.99 x (at least 4)",
    ]


def test_an_aim_for_a_time_is_about_belfrys_own_value():
    slow = Comparison(Quantity("request_to_smtp_p99", "ms"), "sqlite", {"belfry": 51.0, "celery": 900.0})
    assert [verdict.line() for verdict in verdicts([slow])] == [
        "missed request_to_smtp_p99.sqlite.belfry 51.0 ms (at most 50)"
    ]


def test_every_aim_is_about_a_case():
    for aim in AIMS:
        assert any(aim.quantity.startswith(case) for case in CASES), aim


def test_the_table_has_a_row_for_each_peer_and_for_belfry_alone():
    assert markdown([mails(800, celery=200), mails(800)]).splitlines()[2:] == [
        "| `mails.sqlite` | mails/s | 800 | celery 200 | 4.00 x | at least 4 x: met |",
        "| `mails.sqlite` | mails/s | 800 | | |  |",
    ]


def test_without_words_all_cases_run_on_both_databases():
    assert parse([]) == (list(CASES), Plan(), False)
    assert Plan().databases == DATABASES


def test_words_choose_cases_and_sizes():
    names, plan, as_table = parse(["mails", "--database", "sqlite", "--rounds", "2", "--alone", "--markdown"])
    assert names == ["mails"]
    assert plan == Plan(databases=("sqlite",), rounds=2, alone=True)
    assert as_table


def test_quick_is_one_round_of_less_by_default():
    assert parse(["--quick"])[1].rounds == 1
    assert parse(["--quick"])[1].scaled(1_000) < 1_000
    assert parse(["--quick", "--rounds", "2"])[1].rounds == 2


def test_a_share_of_a_number_still_has_a_first_and_a_last():
    assert Plan(scale=0.0001).scaled(1_000) == 2


@pytest.mark.parametrize(
    "words", [["mail"], ["--database", "oracle"], ["--rounds", "0"], ["--scale", "-1"], ["--scale", "much"], ["--slow"]]
)
def test_a_wrong_word_is_answered_with_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("bench: ")
    assert said.count("\n") == 1


def test_every_case_is_documented_and_no_other():
    page = (ROOT / "docs" / "performance.md").read_text()
    table = page.partition("## How it is measured\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| \w", table, re.MULTILINE) == list(CASES)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bench" / "peers").glob("*/requirements.txt")), ids=lambda p: p.parent.name
)
def test_every_peer_is_pinned(path):
    assert [line for line in path.read_text().splitlines() if not re.match(r"[\w.-]+==[\w.]+", line)] == []
