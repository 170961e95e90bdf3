"""`polykit plugins list|info|check`."""

from __future__ import annotations

import json

import pytest

ENTRIES = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [
            Entry("metric", "peak", "tops_target:Peak", "how peaked", source="Doe 2020, eq. 3"),
            Entry("pruner", "lop", "tops_target:Lop", "lops", requires=("nowhere_to_be_found",)),
        ]
"""
TARGET = """
    from typing import ClassVar, Literal
    from polykit.api import Field, Metric, SaliencyPruner
    from polykit.types import Column

    class Peak(Metric):
        '''The largest over the mean.'''
        columns: ClassVar = {"peak": Column("largest over mean", "ratio", 1)}
        headline: ClassVar[str] = "peak"
        argument: ClassVar[str] = "at"
        at: Literal["pre", "post"] = Field("pre", description="where to read")
        power: float | None = Field(None, gt=0, le=2, description="how sharply")
        def measure(self, subject): ...

    class Lop(SaliencyPruner):
        '''Lops.'''
        def scores(self, *arguments, **more): ...
"""
OTHER = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [Entry("metric", "peak", "json:JSONDecoder", "another")]
"""


@pytest.fixture
def tops(site):
    site.install("tops", ENTRIES, tops_target=TARGET)
    return site


def test_list_shows_what_there_is_and_what_it_lacks(tops, polykit):
    done = polykit("plugins", "list", "--kind", "pruner")
    assert done.code == 0
    line = next(line for line in done.out.splitlines() if " lop " in line)
    assert "(needs: pip install nowhere_to_be_found)" in line
    assert line.split()[-1] == "tops"
    assert "peak" not in done.out


def test_list_shows_broken_and_blocked_with_the_reason(site, polykit):
    site.install("bad", "raise ValueError('no good')")
    site.install("shut", "raise ValueError")
    done = polykit("-p", "no:shut", "plugins", "list")
    assert done.code == 0
    assert "broken: plug of bad: importing bad raised ValueError: no good" in done.out
    assert "blocked: plug of shut" in done.out


def test_list_as_json(tops, polykit):
    tops.install("bad", "raise ValueError('no good')")
    done = polykit("plugins", "list", "--json")
    listed = json.loads(done.out)
    peak = next(plugin for plugin in listed["plugins"] if plugin["name"] == "peak")
    assert peak == {
        "kind": "metric",
        "name": "peak",
        "summary": "how peaked",
        "source": "Doe 2020, eq. 3",
        "distribution": "tops",
        "target": "tops_target:Peak",
        "requires": [],
        "missing": [],
    }
    statuses = {package["distribution"]: package["status"] for package in listed["packages"]}
    assert (statuses["bad"], statuses["tops"], statuses["polykit"]) == ("broken", "ok", "ok")


def test_info_tells_all_of_a_metric(tops, polykit):
    done = polykit("plugins", "info", "peak")
    assert done.code == 0
    words = " ".join(done.out.split())
    assert "metric peak: how peaked" in words
    assert "from tops (tops_target:Peak)" in words
    assert "source Doe 2020, eq. 3" in words
    assert "The largest over the mean." in words
    assert "at pre | post pre where to read" in words
    assert "power float | none > 0, ≤ 2 how sharply" in words
    assert "peak * [1, ∞) ratio largest over mean" in words


def test_info_as_json(tops, polykit):
    (peak,) = json.loads(polykit("plugins", "info", "tops:peak", "--json").out)["plugins"]
    assert peak["headline"] == "peak"
    assert peak["columns"] == [
        {"name": "peak", "summary": "largest over mean", "unit": "ratio", "range": "[1, ∞)"}
    ]
    assert peak["options"][0] == {
        "name": "at",
        "type": "pre | post",
        "bounds": "",
        "default": "pre",
        "description": "where to read",
    }


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["paek"], 2, "Did you mean 'peak'?"),
        (["peak", "--kind", "pruner"], 2, "no pruner is called 'peak'"),
        (["lop"], 3, "pip install nowhere_to_be_found"),
        (["bad"], 3, "no good"),
    ],
)
def test_info_that_cannot_be_given(tops, polykit, line, code, words):
    tops.install("bad", "raise ValueError('no good')")
    done = polykit("plugins", "info", *line)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_check_is_content(tops, polykit):
    done = polykit("plugins", "check")
    assert done.code == 0, done.out
    assert "all of them sound" in done.out
    assert json.loads(polykit("plugins", "check", "--json").out) == {"broken": [], "conflicts": []}


def test_check_finds_broken_plugins_and_targets(site, polykit):
    site.install("bad", "raise ValueError('no good')")
    site.install("tops", ENTRIES, tops_target="Peak = 7")
    done = polykit("plugins", "check")
    assert done.code == 3
    assert "broken: plug of bad: importing bad raised ValueError: no good" in done.out
    assert "broken: metric peak of tops: tops_target:Peak" in done.out
    assert "Traceback" not in done.err
    assert "raise ValueError('no good')" in polykit("--verbose", "plugins", "check").err
    problems = json.loads(polykit("plugins", "check", "--json").out)["broken"]
    assert [problem["distribution"] for problem in problems] == ["bad", "tops"]


def test_check_finds_conflicts(tops, polykit):
    tops.install("rival", OTHER.replace("json:JSONDecoder", "tops_target:Peak"))
    done = polykit("plugins", "check")
    assert done.code == 1
    line = "conflict: metric 'peak' is brought by rival and tops; write rival:peak or tops:peak"
    assert line in done.out
    assert line in polykit("plugins", "list").out


def test_check_finds_commands_hidden_by_polykit(site, polykit):
    site.install("rival", OTHER.replace('"metric", "peak"', '"command", "analyze"'))
    done = polykit("plugins", "check")
    assert done.code == 1
    assert "brought by rival and polykit itself; write rival:analyze" in done.out
