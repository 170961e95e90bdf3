"""Discovery, isolation of broken plugins, names, and options as a user writes them."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap

import pytest

from polykit.api import Dataset, Entry, Field, IntList, Options, hookimpl
from polykit.entries import read_value
from polykit.errors import PluginError, UsageError
from polykit.registry import Registry

ENTRIES = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [Entry("pruner", "cut", "{target}:Cut", "cuts")]
"""
TARGET = """
    from typing import ClassVar, Literal
    from polykit.api import Field, IntList, Options

    class Cut(Options):
        argument: ClassVar[str] = "path"
        path: str = Field("", description="where")
        rounds: int | None = Field(10, ge=1, description="how often")
        schedule: Literal["linear", "exponential"] = Field("linear", description="how")
        widths: IntList = Field((64,), description="how wide")
"""
GOOD = ENTRIES.format(target="cut_target")


def by_distribution(registry: Registry) -> dict[str, str]:
    return {plugin.distribution: plugin.status for plugin in registry.plugins}


def test_lists_without_importing_targets(site):
    site.install("good", GOOD, cut_target=TARGET)
    registry = site.registry()
    assert [found.entry.name for found in registry.entries("pruner")] == ["cut"]
    assert "cut_target" not in sys.modules
    assert registry.create("pruner", "cut").instance.rounds == 10
    assert "cut_target" in sys.modules


def test_built_ins_are_found_through_their_entry_points():
    registry = Registry.discover()
    assert {p.status for p in registry.plugins if p.distribution == "polykit"} == {"ok"}
    assert "digits" in {found.entry.name for found in registry.entries("dataset")}


HALF = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_epoch(cell):
        raise AssertionError("must never be called: the plugin is broken")

    @hookimpl
    def polykit_entries({arguments}):
        return {value}
"""
BROKEN = {
    "exception at import": ("raise ValueError('no good')", "ValueError: no good"),
    "exit at import": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "missing module": ("import nowhere_to_be_found", "ModuleNotFoundError"),
    "syntax": ("def", "SyntaxError"),
    "signature": (HALF.format(arguments="surprise", value="[]"), "surprise"),
    "misspelt": ("def polykit_entires(): return []", "Did you mean 'polykit_entries'?"),
    "misspelt, marked": (
        "from polykit.api import hookimpl\n@hookimpl\ndef polykit_epochs(cell): pass",
        "Did you mean 'polykit_epoch'?",
    ),
    "unmarked": ("def polykit_entries(): return []", "not marked with @hookimpl"),
    "raises": (HALF.format(arguments="", value="1 / 0"), "ZeroDivisionError"),
    "no list": (HALF.format(arguments="", value="7"), "TypeError"),
    "no entry": (HALF.format(arguments="", value="['cut']"), "'cut', which is no Entry"),
    "kind": (HALF.format(arguments="", value="[Entry('prune', 'a', 'm:a', '')]"), "'pruner'"),
    "name": (HALF.format(arguments="", value="[Entry('pruner', 'a b', 'm:a', '')]"), "'a b'"),
    "target": (HALF.format(arguments="", value="[Entry('pruner', 'a', 'm.a', '')]"), "'m.a'"),
    "twice": (
        HALF.format(arguments="", value="[Entry('pruner', 'a', 'm:a', '')] * 2"),
        "registered twice",
    ),
    "requires": (
        HALF.format(arguments="", value="[Entry('pruner', 'a', 'm:a', '', requires='torch')]"),
        "requires=('torch',)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_is_set_apart_whole(site, case, caplog):
    source, reason = BROKEN[case]
    site.install("bad", source)
    site.install("good", GOOD, cut_target=TARGET)
    registry = site.registry()
    assert by_distribution(registry) == {"bad": "broken", "good": "ok"}
    bad = next(plugin for plugin in registry.plugins if plugin.status == "broken")
    assert reason in bad.problem
    assert "Traceback" in bad.traceback
    assert bad.entries == ()
    assert registry.create("pruner", "cut").instance.rounds == 10
    registry.notify("polykit_epoch", cell="", phase="", epoch=1, epochs=1, losses={}, model=None)
    assert not caplog.records  # nothing of it was left registered


def test_interrupt_at_import_is_not_swallowed(site):
    site.install("bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.registry()


def test_broken_metadata_does_not_stop_discovery():
    point = importlib.metadata.EntryPoint("odd", "nowhere:at_all", "polykit")
    registry = Registry.discover(entry_points=[point])
    assert [(p.distribution, p.status) for p in registry.plugins] == [("unknown", "broken")]


@pytest.mark.parametrize("name", ["plug", "bad", "bad:plug"])
def test_blocked_plugin_is_not_imported(site, name):
    site.install("bad", "raise ValueError")
    registry = site.registry(name)
    assert by_distribution(registry) == {"bad": "blocked"}
    assert site.modules() == []


def test_asking_for_a_broken_plugin_says_why(site):
    site.install("bad", "raise ValueError('no good')")
    for name in ("bad", "bad:cut"):
        with pytest.raises(PluginError, match="no good") as caught:
            site.registry().find("pruner", name)
        assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="broken: bad"):
        site.registry().find("pruner", "cut")


def test_target_that_does_not_import_is_broken_only_when_asked_for(site):
    site.install("good", GOOD, cut_target="import nowhere_to_be_found")
    registry = site.registry()
    assert by_distribution(registry) == {"good": "ok"}
    with pytest.raises(PluginError, match=r"cut_target:Cut.*nowhere_to_be_found.*-p no:good"):
        registry.create("pruner", "cut")


def test_target_that_is_no_plugin_class(site):
    site.install("good", GOOD, cut_target="Cut = 7")
    with pytest.raises(PluginError, match="derive it from a base class"):
        site.registry().create("pruner", "cut")


@pytest.mark.parametrize("module", ["nowhere_to_be_found", "nowhere_to_be_found.inside"])
def test_missing_requirement_is_named(site, module):
    entry = f"Entry('pruner', 'cut', 'cut_target:Cut', '', requires=('{module}', 'pytest'))"
    site.install("good", HALF.format(arguments="", value=f"[{entry}]"), cut_target=TARGET)
    registry = site.registry()
    assert next(registry.entries()).missing == [module]
    with pytest.raises(PluginError, match=f"pip install {module}"):
        registry.create("pruner", "cut")


def test_two_distributions_with_one_name(site):
    site.install("one", ENTRIES.format(target="one_target"), one_target=TARGET)
    site.install("two", ENTRIES.format(target="two_target"), two_target=TARGET)
    registry = site.registry()
    with pytest.raises(UsageError, match="one:cut or two:cut"):
        registry.create("pruner", "cut")
    chosen = registry.create("pruner", "two:cut:rounds=3")
    assert type(chosen.instance).__module__ == "two_target"
    assert (chosen.distribution, chosen.name, chosen.instance.rounds) == ("two", "cut", 3)
    again = registry.recreate("pruner", chosen.record)
    assert again.instance == chosen.instance
    assert site.registry("one").create("pruner", "cut").distribution == "two"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cut", {}),
        ("cut:rounds=5,schedule=exponential", {"rounds": 5, "schedule": "exponential"}),
        ("cut:rounds=none", {"rounds": None}),
        ("cut:/some/where", {"path": "/some/where"}),
        ("cut:/a,b/c,d", {"path": "/a,b/c,d"}),
        ("cut:C:/data,rounds=2", {"path": "C:/data", "rounds": 2}),
        ("cut:widths=32,16", {"widths": (32, 16)}),
        ("cut:widths=32x16,rounds=2", {"widths": (32, 16), "rounds": 2}),
        ("good:cut:rounds=7", {"rounds": 7}),
    ],
)
def test_options_as_a_user_writes_them(site, spec, expected):
    site.install("good", GOOD, cut_target=TARGET)
    instance = site.registry().create("pruner", spec).instance
    assert instance.model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cut:round=5", ["no option 'round'", "Did you mean 'rounds'?", "plugins info cut"]),
        ("cut:rounds=0", ["rounds='0'", "greater than or equal to 1"]),
        ("cut:rounds=many", ["rounds='many'", "valid integer"]),
        ("cut:schedule=slow", ["schedule='slow'", "'linear' or 'exponential'"]),
        ("cat", ["no pruner is called 'cat'", "Did you mean 'cut'?", "plugins list --kind pruner"]),
        ("other:cut", ["no pruner is called 'other'"]),
    ],
)
def test_what_a_user_gets_wrong_is_explained(site, spec, words):
    site.install("good", GOOD, cut_target=TARGET)
    with pytest.raises(UsageError) as caught:
        site.registry().create("pruner", spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.exit_code == 2


def test_option_without_a_name_needs_an_argument(site):
    plain = "from polykit.api import Options\nclass Cut(Options):\n    a: int = 1"
    site.install("good", GOOD, cut_target=plain)
    with pytest.raises(UsageError, match="takes option=value, not '5'; its options: a"):
        site.registry().create("pruner", "cut:5")


def test_the_spec_goes_before_the_overrides(site):
    site.install("good", GOOD, cut_target=TARGET)
    chosen = site.registry().create("pruner", "cut:rounds=5", {"rounds": 6})
    assert chosen.record == {
        "name": "cut",
        "distribution": "good",
        "options": {"path": "", "rounds": 5, "schedule": "linear", "widths": [64]},
    }


class Shelf(Dataset):
    """A family of data sets."""

    argument = "title"
    title: str = Field("", description="which one")
    widths: IntList = Field((), description="how wide")

    def load(self):
        raise NotImplementedError


class Family:
    @hookimpl
    def polykit_resolve(self, kind, spec):
        if kind == "dataset" and spec.startswith("shelf-"):
            return Entry("dataset", spec, f"{__name__}:Shelf", "any of a shelf")
        return None


class BadFamily:
    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def polykit_resolve(self, kind, spec):
        return self.answer()


def test_resolve_hook_brings_names_nobody_registered():
    registry = Registry()
    registry.register(Family(), "family", "library")
    chosen = registry.create("dataset", "shelf-3", {"widths": [1]})
    assert (chosen.name, chosen.distribution) == ("shelf-3", "library")
    assert chosen.instance.title == "shelf-3"
    assert registry.recreate("dataset", chosen.record).instance == chosen.instance
    with pytest.raises(UsageError, match="no model is called 'shelf-3'"):
        registry.create("model", "shelf-3")


@pytest.mark.parametrize("answer", [lambda: 1 / 0, lambda: "no entry"])
def test_resolve_hook_that_fails_is_named_and_does_not_stop_others(answer, caplog):
    registry = Registry()
    registry.register(BadFamily(answer), "bad", "rogue")
    registry.register(Family(), "family", "library")
    assert registry.create("dataset", "shelf-3").distribution == "library"
    assert "rogue:bad raised in polykit_resolve" in caplog.text


def test_run_that_needs_a_missing_plugin_says_so():
    record = {"name": "cut", "distribution": "gone", "options": {}}
    with pytest.raises(UsageError, match="'cut' of gone, which is not installed or blocked"):
        Registry().recreate("pruner", record)


def test_same_plugin_cannot_be_registered_twice():
    registry, family = Registry(), Family()
    assert registry.register(family, "family").status == "ok"
    assert registry.register(family, "family").status == "broken"


def test_none_is_the_only_word_the_registry_reads():
    assert read_value("None") is None
    assert read_value("true") == "true"


def test_options_are_frozen_and_complete():
    class Plain(Options):
        a: int = 1

    with pytest.raises(ValueError, match="frozen"):
        Plain().a = 2
    with pytest.raises(ValueError, match="Extra"):
        Plain(b=1)


def test_listing_imports_no_torch(site):
    """In a process of its own: this one has imported torch long ago."""
    site.install("good", GOOD, cut_target="import torch")
    code = """
        import sys
        from polykit.registry import Registry
        registry = Registry.discover()
        assert any(found.distribution == "good" for found in registry.entries())
        assert len(list(registry.entries())) > 1
        sys.exit("torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=site.environment, check=False
    )
    assert done.returncode == 0
