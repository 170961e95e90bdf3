"""`polykit run`: a study from one file, and `polykit data`: what a dataset is like."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from polykit.cli.run import read_recipe
from polykit.errors import UsageError
from polykit.workflows.configs import CONFIGS

RECIPES = sorted((Path(__file__).parents[2] / "examples").glob("*/*.toml"))
RECIPES = [path for path in RECIPES if path.name != "pyproject.toml"]

SMALL = """
workflow = "laboratory"
seeds = [0, 1]
dropouts = [0.0]
ratios = [0.4]
arms = ["unpruned", "pruned"]
epochs = 1
retrain_epochs = 1

[[scenarios]]
name = "tiny"
dataset = "feature-model:hidden=6x4,inputs=4,samples=150,encoder_epochs=1"
model = "mlp:widths=8x5,init=torch"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)


def test_a_laboratory_runs_and_says_its_answer(polykit):
    done = polykit("run", "small.toml", "--out", "lab", "--set", "seeds=[0]")
    assert (done.code, done.err) == (0, "")
    assert "tiny" in done.out
    assert "report  lab/report.html" in done.out
    meta = json.loads(Path("lab/run.json").read_text())
    assert meta["command"] == "polykit run small.toml --set 'seeds=[0]'"
    assert meta["config"]["seeds"] == [0]
    page = Path("lab/report.html").read_text()
    assert meta["command"].replace("'", "&#39;") in page
    shown = polykit("runs", "show", "lab")
    assert shown.code == 0
    assert "tiny" in shown.out
    assert "laboratory" in polykit("runs", "list", "--runs-dir", ".").out


def test_json_holds_the_rows(polykit):
    done = polykit("run", "small.toml", "--out", "lab", "--json", "--no-report")
    rows = json.loads(done.out)["rows"]
    assert {row["arm"] for row in rows} == {"dense", "unpruned", "pruned"}
    assert not Path("lab/report.html").exists()


def test_an_analysis_is_a_recipe_too(polykit):
    Path("sweep.toml").write_text(
        'workflow = "analyze"\npruners = ["magnitude"]\ndensities = [0.5]\nseeds = [0]\n'
        "epochs = 1\nretrain_epochs = 0\n"
    )
    done = polykit("run", "sweep.toml", "--out", "a", "--no-report")
    assert done.code == 0
    assert "magnitude" in done.out


def test_plan_counts_networks_and_writes_nothing(polykit):
    done = polykit("run", "small.toml", "--dry-run")
    assert done.out.splitlines()[0] == "5 cells, 6 networks"
    plan = json.loads(polykit("run", "small.toml", "--dry-run", "--json").out)
    assert plan["training_epochs"] == 6
    assert list(Path().iterdir()) == [Path("small.toml")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [0]", "names none. Write workflow"),
        ('workflow = "labratory"', "unknown workflow 'labratory'. Did you mean 'laboratory'?"),
        ('workflow = "laboratory"\nseed = 1', "unknown key 'seed'. Did you mean 'seeds'?"),
        ('workflow = "laboratory"', "scenarios in broken.toml: is missing"),
        (SMALL.replace("[0.4]", "[1.4]"), "ratio 1.4 is outside (0, 1)"),
        (
            SMALL.replace('name = "tiny"', 'nam = "tiny"'),
            "scenarios in broken.toml: 0.nam 'tiny': Extra inputs",
        ),
        ("workflow = ", "is no TOML"),
    ],
)
def test_a_broken_recipe_is_named_with_the_remedy(polykit, text, message):
    Path("broken.toml").write_text(text)
    done = polykit("run", "broken.toml")
    assert done.code == 2
    assert message in done.err
    assert "broken.toml" in done.err
    assert not Path("runs").exists()


def test_usage(polykit):
    assert "name a recipe" in polykit("run").err
    assert "cannot read the recipe nowhere.toml" in polykit("run", "nowhere.toml").err
    assert "KEY=VALUE" in polykit("run", "small.toml", "--set", "seeds").err
    done = polykit("run", "small.toml", "--resume", "lab")
    assert (done.code, "drop the file" in done.err) == (2, True)
    assert (
        "no option 'sedes'. Did you mean 'seeds'?"
        in polykit("run", "small.toml", "--set", "sedes=[1]").err
    )


def test_resume_goes_on(polykit):
    assert polykit("run", "small.toml", "--out", "lab", "--no-report").code == 0
    before = Path("lab/rows.parquet").read_bytes()
    Path("lab/rows.parquet").unlink()
    done = polykit("run", "--resume", "lab", "--no-report")
    assert done.code == 0
    assert Path("lab/rows.parquet").read_bytes() == before


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_come_along_are_read(path):
    workflow = tomllib.loads(path.read_text(encoding="utf-8"))["workflow"]
    assert type(read_recipe(path)) is CONFIGS[workflow]
    assert path.name in path.read_text().split("workflow", 1)[0], "it does not say how to run it"


def test_the_collections_hold_the_single_scenarios():
    thesis = next(path.parent for path in RECIPES if path.parent.name == "thesis")
    single = [
        tomllib.loads((thesis / f"{n}.toml").read_text()) for n in "l1 l2 n1 n2 n3 n4".split()
    ]
    every = tomllib.loads((thesis / "all.toml").read_text())
    assert every["scenarios"] == [scenario for one in single for scenario in one["scenarios"]]
    assert all({**every, "scenarios": one["scenarios"]} == one for one in single)
    exact = read_recipe(thesis / "exact.toml")
    assert [s.model for s in exact.scenarios] == [s["model"] for s in every["scenarios"]]


def test_changes_are_read_as_toml_or_as_text():
    found = read_recipe(Path("small.toml"), ["epochs=7", "pruner=structured:counts=units"])
    assert (found.epochs, found.pruner) == (7, "structured:counts=units")
    with pytest.raises(UsageError, match=r"--set epochs=many: 'many'.*integer"):
        read_recipe(Path("small.toml"), ["epochs=many"])


WORLD = "feature-model:hidden=6x4,inputs=4,samples=150,encoder_epochs=1"


def test_data_shows_its_card_and_saves_its_truth(polykit):
    done = polykit("data", WORLD, "--save", "world.safetensors")
    assert done.code == 0
    assert "label_ceiling" in done.out
    loaded = json.loads(polykit("data", "feature-model:file=world.safetensors", "--json").out)
    made = json.loads(polykit("data", WORLD, "--json").out)
    assert loaded == made
    assert made["features"] == 10


def test_data_without_truth_cannot_be_saved(polykit):
    done = polykit("data", "digits", "--save", "world.safetensors")
    assert done.code == 1
    assert "digits has no ground truth to save" in done.err
    assert "input_shape        1×8×8" in polykit("data", "digits").out
