"""`polykit analyze`: from what a user writes to a configuration, and from a run to words."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from polykit import session
from polykit.api import TRACKERS_VARIABLE
from polykit.cli import analyze as command
from polykit.cli.fields import default_of
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.config import value_text

SHORT = ("--seed", "0", "--density", "0.5", "--pruner", "magnitude", "--metric", "hoyer")
SHORT += ("--epochs", "2", "--retrain-epochs", "0")

IMPATIENT = """
    from polykit.api import hookimpl

    @hookimpl
    def polykit_epoch(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
"""
CLUMSY = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [Entry("pruner", "clumsy", "clumsy_target:Clumsy", "breaks")]
"""
CLUMSY_TARGET = """
    from polykit.api import Pruner

    class Clumsy(Pruner):
        def prune(self, *arguments, **more):
            raise ZeroDivisionError("oh no")
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configured(monkeypatch, polykit):
    """Return the configuration that a command line leads to."""
    seen = []

    class Planned:
        def lines(self):
            return ["planned"]

    def plan(config, registry):
        seen.append(config)
        return Planned()

    monkeypatch.setattr(session, "plan", plan)

    def run(*line):
        done = polykit("analyze", "--dry-run", *line)
        assert (done.code, done.out) == (0, "planned\n"), done.err
        return seen[-1]

    return run


def test_nothing_given_means_the_defaults(configured):
    assert configured() == AnalyzeConfig()


def test_every_field_is_an_option_with_its_default_in_the_help(polykit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    text = polykit("analyze", "--help").out
    for name, field in AnalyzeConfig.model_fields.items():
        if name == "options":
            continue
        flag = command.FLAGS.get(name, "--" + name.replace("_", "-"))
        (line,) = re.findall(rf"^│ {flag} .*$", text, re.MULTILINE)
        assert field.description in line
        default = default_of(field)
        if default in (None, ()):  # nothing is chosen, so there is nothing to show
            assert "default:" not in line
        else:
            assert f"default: {value_text(default).replace(',', ' ')})" in line


def test_help_opens_with_examples_that_are_understood(polykit, configured):
    text = polykit("analyze", "--help").out
    examples = re.findall(r"^ polykit (analyze.*?)\s*$", text, re.MULTILINE)
    assert len(examples) == 8
    assert text.index(examples[0]) < text.index("--model")
    for example in examples:
        line = shlex.split(example)[1:]
        if "--config" not in line and "--resume" not in line:
            assert isinstance(configured(*line), AnalyzeConfig)


def test_repeated_options_gather(configured):
    config = configured(
        *("--pruner", "snip", "--pruner", "force:rounds=5,schedule=linear"),
        *("--density", "0.5", "--density", ".1", "--seed", "3", "--no-control"),
        *("-o", "ig.at=post", "-o", "force.resurrect=false", "-o", "ig.steps=none"),
    )
    assert config == AnalyzeConfig(
        pruners=("snip", "force:rounds=5,schedule=linear"),
        densities=(0.5, 0.1),
        seeds=(3,),
        control=False,
        options={"ig": {"at": "post", "steps": None}, "force": {"resurrect": "false"}},
    )


def test_command_line_beats_environment_beats_file(configured, tmp_path, monkeypatch):
    (tmp_path / "sweep.toml").write_text(
        "epochs = 1\nlr = 0.1\nseeds = [7]\ncontrol = false\n"
        "[options.ig]\nat = 'post'\nsteps = 3\n[options.mlp]\nwidths = [8]\n"
    )
    monkeypatch.setenv("POLYKIT_ANALYZE_LR", "0.2")
    monkeypatch.setenv("POLYKIT_ANALYZE_SEEDS", "8 9")
    line = ("--config", "sweep.toml", "--seed", "1", "-o", "ig.steps=5")
    assert configured(*line) == AnalyzeConfig(
        epochs=1,
        lr=0.2,
        seeds=(1,),
        control=False,
        options={"ig": {"at": "post", "steps": "5"}, "mlp": {"widths": [8]}},
    )


def test_sugar_reaches_the_plugins_by_their_names(configured):
    config = configured("--data-root", "data", "--download", "--dataset", "polykit:mnist:limit=9")
    assert config.options == {"mnist": {"root": "data", "download": "true"}}
    config = configured("--model", "resnet18", "--weights", "DEFAULT", "-o", "resnet18.head=new")
    assert config.options == {"resnet18": {"weights": "DEFAULT", "head": "new"}}


def test_command_in_the_run_leads_back_to_its_configuration(configured):
    config = configured(
        *("--pruner", "force:rounds=5", "--seed", "3", "--no-control", "--scope", "layer"),
        *("-o", "hoyer.at=pre", "--metric", "hoyer", "--prune-layer", "hid*"),
    )
    line = shlex.split(config.command())
    assert line[:2] == ["polykit", "analyze"]
    assert configured(*line[2:]) == config


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["--pruner", "forse"], 2, "Did you mean 'force'?"),
        (["--pruner", "force:rounds=0"], 2, "rounds='0'"),
        (["--metric", "gi"], 2, "Did you mean 'ig'?"),
        (["--dataset", "digit"], 2, "Did you mean 'digits'?"),
        (["--density", "0"], 2, "error: --density 0: density 0 is outside (0, 1]"),
        (["--density", "1.5"], 2, "outside (0, 1]"),
        (["--seed", "x"], 2, "--seed 'x'"),
        (["--granularity", "wheight"], 2, "--granularity 'wheight'"),
        (["--layer", "convolution*"], 2, "no layer matches 'convolution*'"),
        (["--objective", "nowhere:1"], 2, "layer 'nowhere'"),
        (["-o", "mlp.width=5"], 2, "Did you mean 'widths'?"),
        (["-o", "mpl.widths=5"], 2, "'mpl'"),
        (["-o", "widths=5"], 2, "write PLUGIN.OPTION=VALUE"),
        (["--config", "nowhere.toml"], 2, "cannot read the config file nowhere.toml"),
        (["--download"], 2, "dataset 'digits' has no option 'download'"),
        (["--resume", "nowhere"], 1, "nowhere"),
        (["--resume", "nowhere", "--seed", "1"], 2, "drop --seed"),
        (["--checkpoint", "nowhere.pt"], 1, "nowhere.pt"),
        (["--pruner", "bad"], 3, "no good"),
        (["--out", "taken"], 1, "taken"),
    ],
)
def test_mistakes_are_one_line(polykit, site, tmp_path, line, code, words):
    site.install("bad", "raise ValueError('no good')")
    (tmp_path / "taken").write_text("a file")
    done = polykit("analyze", *line)
    assert (done.code, done.out) == (code, ""), done.err
    (error,) = [row for row in done.err.splitlines() if not row.startswith("warning: plugin plug")]
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "runs").exists()


def test_bad_toml_says_where(polykit, tmp_path):
    (tmp_path / "sweep.toml").write_text("seeds = [1\nepochs = 3\n")
    done = polykit("analyze", "--config", "sweep.toml")
    assert (done.code, done.out) == (2, "")
    assert "sweep.toml is no TOML" in done.err
    assert "line 2" in done.err


def test_plan_shows_cells_and_cost_and_runs_nothing(polykit, tmp_path):
    done = polykit("analyze", "--dry-run", *SHORT)
    assert done.code == 0
    assert "3 cells" in done.out
    plan = json.loads(polykit("analyze", "--dry-run", "--json", *SHORT).out)
    assert plan["cells"] == ["seed-0-dense", "seed-0-magnitude-0.5", "seed-0-random-0.5"]
    assert list(tmp_path.glob("runs*")) == []


def test_json_is_one_object_and_nothing_else(polykit, tmp_path):
    done = polykit("analyze", "--json", "--no-report", "--out", "mine", *SHORT)
    assert done.code == 0
    result = json.loads(done.out)
    assert list(result) == ["run", "rows"]
    assert (tmp_path / result["run"] / "run.json").is_file()
    assert not (tmp_path / "mine" / "report.html").exists()
    columns = "seed pruner density achieved_density stage metric layer statistic value"
    assert all(list(row) == columns.split() for row in result["rows"])
    stages = {(row["pruner"], row["stage"]) for row in result["rows"]}
    assert stages == {("dense", "dense"), ("magnitude", "pruned"), ("random", "pruned")}


def test_run_is_shown_listed_reported_and_repeated(polykit, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYKIT_RUNS", "kept")
    done = polykit("analyze", *SHORT, "--seed", "1")
    assert done.code == 0
    (path,) = (tmp_path / "kept").iterdir()
    assert re.search(r"^magnitude +0\.5 +pruned .* ± ", done.out, re.MULTILINE)
    assert "mean ± standard deviation over 2 seeds" in done.out
    assert f"run     kept/{path.name}\nreport  kept/{path.name}/report.html\n" in done.out
    assert (path / "report.html").is_file()

    listed = json.loads(polykit("runs", "list", "--json").out)["runs"]
    assert [(run["run"], run["status"]) for run in listed] == [(f"kept/{path.name}", "complete")]
    assert re.search(
        rf"^{path.name} +complete +analyze +mlp +digits +magnitude +0\.5 +0,1",
        polykit("runs", "list").out,
        re.MULTILINE,
    )

    shown = polykit("runs", "show", path.name)
    assert "epochs           2\n" in shown.out
    assert re.search(r"^random +0\.5 +pruned ", shown.out, re.MULTILINE)

    (path / "report.html").unlink()
    assert polykit("report", path.name).out == f"kept/{path.name}/report.html\n"
    assert (path / "report.html").is_file()

    first = json.loads(polykit("runs", "show", path.name, "--json").out)
    again = json.loads(polykit("runs", "rerun", path.name, "--json", "--out", "again").out)
    assert again["run"] == "again"
    assert again["rows"] == first["rows"]


def test_missing_run_suggests_the_nearest(polykit, tmp_path):
    (tmp_path / "runs" / "analyze-digits").mkdir(parents=True)
    for line in (["runs", "show"], ["runs", "rerun"], ["report"]):
        done = polykit(*line, "analyze-digit")
        assert (done.code, done.out) == (2, "")
        assert "Did you mean 'analyze-digits'?" in done.err
        assert polykit(*line, "analyze-digits").code == 1  # a folder, but not a run


def test_damaged_run_does_not_hide_the_others(polykit, tmp_path):
    assert polykit("runs", "list").out == "no runs in runs\n"
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text("{")
    done = polykit("runs", "list")
    assert done.code == 0
    assert re.search(r"^one +damaged", done.out, re.MULTILINE)


def test_interrupted_run_says_how_to_go_on_and_does(polykit, site, tmp_path):
    site.install("impatient", IMPATIENT)
    done = polykit("analyze", *SHORT, "--out", "my run")
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted; continue with: polykit run --resume 'my run'\n"
    assert re.search("interrupted +.*", polykit("runs", "list", "--runs-dir", ".").out)

    done = polykit("-p", "no:impatient", "analyze", "--resume", "my run", "--json")
    assert done.code == 0
    resumed = json.loads(done.out)
    whole = json.loads(polykit("-p", "no:impatient", "analyze", *SHORT, "--json").out)
    assert resumed["rows"] == whole["rows"]


def test_plugin_that_raises_at_work_fails_its_cell_only(polykit, site):
    site.install("clumsy", CLUMSY, clumsy_target=CLUMSY_TARGET)
    done = polykit("analyze", *SHORT, "--pruner", "clumsy", "--json", "--no-report")
    assert done.code == 1
    assert "error: seed-0-clumsy-0.5 failed: " in done.err
    assert "(clumsy_target) raised ZeroDivisionError: oh no" in done.err
    assert "Traceback" not in done.err
    assert {row["pruner"] for row in json.loads(done.out)["rows"]} == {
        "dense",
        "magnitude",
        "random",
    }
    shown = polykit("runs", "show", json.loads(done.out)["run"])
    assert re.search(r"^failed  seed-0-clumsy-0\.5: .*oh no", shown.out, re.MULTILINE)


def test_a_tracker_is_asked_for_by_every_command_that_runs(polykit, tmp_path, monkeypatch):
    monkeypatch.setenv(TRACKERS_VARIABLE, "")  # what the commands set is taken back with it
    runs, first = tmp_path / "runs", tmp_path / "runs" / "first"
    words = ["--no-report", "--tracker", "tensorboard"]
    assert polykit("analyze", *SHORT, *words, "--out", str(first)).code == 0
    assert len(list((first / "tensorboard").iterdir())) == 1
    for name in ("run", "analyze"):
        assert polykit(name, "--resume", str(first), *words).code == 0
    assert len(list((first / "tensorboard").iterdir())) == 3
    again = polykit("runs", "rerun", str(first), "--runs-dir", str(runs), *words)
    assert again.code == 0
    assert len(list(runs.glob("*/tensorboard"))) == 2
