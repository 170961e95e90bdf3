"""Comparisons end to end: planted twins, lines by hand, pulls, and what cannot be compared."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn

import polykit
from polykit import session
from polykit.errors import ModelError, RunError, UsageError
from polykit.registry import Registry
from polykit.report.page import write_report
from polykit.runtime.objectives import task_loss
from polykit.runtime.pairs.symmetry import symmetries
from polykit.runtime.seeds import seeded
from polykit.runtime.store import RunStore
from polykit.runtime.training.loop import evaluate
from polykit.testing.state import unchanged
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.compare.cells import pulled

CPU = torch.device("cpu")
SMALL = {"points": 5, "starts": 2, "randoms": 2, "threads": 1}


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def analysis(registry, tmp_path_factory):
    config = AnalyzeConfig(
        model="mlp:widths=12,8",
        seeds=(0, 1),
        pruners=("magnitude", "structured"),
        densities=(0.4,),
        control=False,
        metrics=(),
        epochs=6,
        retrain_epochs=1,
        lr=0.01,
        keep_weights=True,
        threads=1,
    )
    return session.run(config, registry, out=tmp_path_factory.mktemp("analysis") / "run").path


@pytest.fixture(scope="module")
def digits(registry):
    return registry.create("dataset", "digits").instance.load()


def weights(analysis, cell):
    return RunStore.open(analysis).read_tensors(cell, "model.safetensors")


def network(registry, digits, state):
    model = registry.create("model", "mlp:widths=12,8").instance.build(digits.input_shape, 10)
    model.load_state_dict(state)
    return model.eval()


def start(analysis, out, *others, first="0", **options):
    texts = [f"{analysis}:{cell}" for cell in (first, *others)]
    return polykit.compare(*texts, out=out, **{**SMALL, "metrics": (), **options})


@pytest.fixture(scope="module")
def compared(analysis, tmp_path_factory):
    return start(
        analysis,
        tmp_path_factory.mktemp("compare") / "run",
        "1",
        "seed-0-magnitude-0.4",
        metrics=("ig",),
        pull=(0.01, 100.0),
        epochs=3,
        lr=0.01,
    )


def one(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def number(run, statistic, **where):
    found = one(run.rows, statistic=statistic, **where)["value"]
    assert len(found) == 1
    return float(found.iloc[0])


def test_the_plain_line_equals_averaging_by_hand(compared, analysis, registry, digits):
    a, b = (weights(analysis, f"seed-{seed}-dense") for seed in (0, 1))
    where = {"other": "seed-1-dense", "route": "unmatched"}
    path = one(compared.saved.tables["path"], **where)
    losses = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        model = network(registry, digits, {n: (1 - t) * a[n] + t * b[n] for n in a})
        for name, split in (("train", digits.train), ("test", digits.test)):
            loss, accuracy = evaluate(model, split, "classification", CPU)
            at = one(path, t=t).set_index("quantity")["value"]
            assert at[f"{name}_loss"] == pytest.approx(loss, abs=1e-5)
            assert at[f"{name}_accuracy"] == pytest.approx(accuracy)
        losses.append(at["train_loss"])
    line = [losses[0] + t * (losses[-1] - losses[0]) for t in (0, 0.25, 0.5, 0.75, 1)]
    expected = max(loss - flat for loss, flat in zip(losses, line, strict=True))
    assert number(compared, "train_loss_barrier", **where) == pytest.approx(expected, abs=1e-9)
    distance = sum(float((a[n] - b[n]).square().sum()) for n in a) ** 0.5
    assert number(compared, "distance", **where) == pytest.approx(distance, rel=1e-6)


def test_matching_helps_and_all_orders_end_in_the_same_networks(compared):
    where = {"other": "seed-1-dense", "statistic": "train_loss_barrier", "stage": "compared"}
    heights = one(compared.rows, **where).groupby("route")["value"].mean()
    assert heights["matched"] < min(heights["unmatched"], heights["random"])
    ends = one(compared.saved.tables["path"], other="seed-1-dense", t=1.0)
    for _, part in ends.groupby("quantity"):
        assert part["value"].std() < 1e-4
    assert {"ig", "train_loss", "test_accuracy"} <= set(ends["quantity"])
    assert set(ends["draw"]) == {0, 1}


def test_a_pruned_network_is_compared_as_it_was_retrained(compared, analysis, registry, digits):
    other = "seed-0-magnitude-0.4"
    state = weights(analysis, other)
    assert float((state["hidden1.weight"] == 0).double().mean()) > 0.3
    loss, _ = evaluate(network(registry, digits, state), digits.test, "classification", CPU)
    where = {"other": other, "route": "matched", "t": 1.0, "quantity": "test_loss"}
    assert float(one(compared.saved.tables["path"], **where)["value"].iloc[0]) == pytest.approx(
        loss, abs=1e-5
    )


def test_a_strong_pull_brings_it_there_and_none_does_not(compared):
    where = {"other": "seed-1-dense", "statistic": "distance", "route": "to other"}
    pulled_to = one(compared.rows, **where, stage="pulled").set_index("strength")["value"]
    assert list(pulled_to.index) == [0.0, 0.01, 100.0]
    assert pulled_to[100.0] < 0.5 * pulled_to[0.0]
    assert pulled_to[0.0] == pytest.approx(
        number(compared, "distance", other="seed-1-dense", route="matched"), rel=0.3
    )
    back = {**where, "route": "to first", "stage": "released"}
    away = one(compared.rows, **back).set_index("strength")["value"]
    assert away[100.0] > 2 * away[0.0]
    history = one(compared.history, other="seed-1-dense", strength=0.01)
    assert history["epoch"].tolist() == [1, 2, 3, 1, 2, 3]
    assert history["stage"].tolist() == ["pulled"] * 3 + ["released"] * 3


def test_the_pulled_loss_has_the_pulls_gradient():
    with seeded(0, "pull"):
        model, goal = nn.Linear(3, 2), nn.Linear(3, 2)
        x, y = torch.randn(5, 3), torch.randn(5, 2)
    aim = {name: value.detach() for name, value in goal.named_parameters()}
    plain = task_loss(model(x), y, "regression", "mean")
    expected = torch.autograd.grad(plain, list(model.parameters()))
    found = torch.autograd.grad(
        pulled("regression", aim, 0.7)(model, x, y), list(model.parameters())
    )
    for (name, value), slope, with_pull in zip(
        model.named_parameters(), expected, found, strict=True
    ):
        torch.testing.assert_close(with_pull, slope + 0.7 * (value - aim[name]))
    assert pulled("regression", aim, 0.0)(model, x, y) == plain


class Normed(nn.Sequential):
    """A small network with batch normalisation, whose statistics are those of the digits."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 10)
        )


def test_a_twin_with_its_units_in_another_order_is_found_out(digits, tmp_path):
    with seeded(3, "twin"):
        model = Normed()
    x = next(digits.train.batches(200))[0]
    with torch.no_grad():
        model.train()(x)
    model.eval()
    found = symmetries(model, x)
    twin = copy.deepcopy(model)
    order = found.random(torch.Generator().manual_seed(1))
    twin.load_state_dict(found.permute(model.state_dict(), order))
    with unchanged(model, twin):
        run = polykit.compare(
            model, twin, dataset="digits", out=tmp_path / "run", metrics=(), **SMALL
        )
    assert run.meta["first"] == "Normed"
    assert number(run, "distance", route="matched") == 0
    assert number(run, "train_loss_barrier", route="matched") == pytest.approx(0, abs=1e-6)
    assert number(run, "distance", route="unmatched") > 1
    assert number(run, "agreement", route="functions") == 1
    assert number(run, "correlation", route="functions") == pytest.approx(1)
    alike = one(run.saved.tables["layers"], layer_a="0", layer_b="0").set_index("route")["cka"]
    assert alike["functions"] == pytest.approx(1)
    assert alike["random weights"] < 0.99
    assert "are linearly connected up to the order of their units" in run.verdict().answer


def test_chunks_change_nothing_and_a_seed_fixes_everything(analysis, tmp_path):
    options = {"metrics": ("hoyer",), "pull": (0.1,), "epochs": 1}
    whole = start(analysis, tmp_path / "whole", "1", **options)
    parts = start(analysis, tmp_path / "parts", "1", **options, eval_batch_size=37)
    for table in ("rows", "path", "layers"):
        ours, theirs = (run.saved.tables[table] for run in (whole, parts))
        value = "cka" if table == "layers" else "value"
        assert ours.drop(columns=value).equals(theirs.drop(columns=value))
        assert (ours[value] - theirs[value]).abs().max() < 1e-4
    shutil.rmtree(tmp_path / "whole" / "cells" / "with-seed-1-dense-pull-0.1")
    before = (tmp_path / "whole" / "rows.parquet").read_bytes()
    again = session.resume(tmp_path / "whole", Registry.discover())
    assert again.status == "complete"
    assert (tmp_path / "whole" / "rows.parquet").read_bytes() == before


def test_files_of_weights_give_what_their_run_gives(analysis, compared, tmp_path):
    files = [str(analysis / "cells" / f"seed-{s}-dense" / "model.safetensors") for s in (0, 1)]
    shutil.copy(files[0], tmp_path / "a.safetensors")
    shutil.copy(files[1], tmp_path / "b.safetensors")
    run = polykit.compare(
        *(tmp_path / name for name in ("a.safetensors", "b.safetensors")),
        dataset="digits",
        model="mlp:widths=12,8",
        out=tmp_path / "run",
        metrics=(),
        **SMALL,
    )
    for name in ("train_loss_barrier", "distance"):
        assert number(run, name, route="unmatched") == pytest.approx(
            number(compared, name, route="unmatched", other="seed-1-dense")
        )
    mixed = start(analysis, tmp_path / "mixed", "1")
    assert mixed.status == "complete"


def test_other_shapes_have_no_line_but_layers_and_predictions(analysis, tmp_path):
    cell = "seed-0-structured-0.4"
    with pytest.raises(ModelError, match=r"first at hidden1.weight, 12×64 and \d+×64.*--no-path"):
        start(analysis, tmp_path / "line", cell)
    assert not (tmp_path / "line").exists()
    run = start(analysis, tmp_path / "run", cell, "1", path=False)
    assert set(run.rows["route"]) == {"functions", "random weights"}
    assert 0.2 < number(run, "agreement", other=cell, route="functions") <= 1
    layers = one(run.saved.tables["layers"], other=cell, route="functions")
    assert len(layers) == 9
    assert layers["cka"].between(0, 1 + 1e-9).all()
    assert "they predict the same class on" in run.verdict().answer
    assert "layers" in run.plot()


def test_the_same_shapes_with_another_nonlinearity_have_no_line(digits):
    made = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4), act(), nn.Linear(4, 10))
        for act in (nn.ReLU, nn.Tanh)
    ]
    with pytest.raises(ModelError, match=r"they differ first at 2, ReLU\(\) and Tanh\(\)"):
        polykit.compare(*made, dataset="digits", **SMALL)


def test_a_report_says_the_answer_first_and_draws_everything(compared):
    verdict = compared.verdict()
    assert "networks are linearly connected with seed-0-dense" in verdict.answer
    told = dict(verdict.parts)["seed-0-dense and seed-1-dense"]
    assert any(line.startswith("units matched: the training loss rises by") for line in told)
    assert any("λ" in line or "without a pull" in line for line in told)
    page = write_report(compared.saved).read_text()
    assert page.index(verdict.answer[:40]) < page.index("<figure")
    drawn = {path.stem for path in (compared.path / "figures").glob("*.svg")}
    assert drawn >= {"line-train_loss", "line-ig", "layers", "pull"}
    table = compared.summary()
    assert table.loc[("seed-1-dense", "compared", 0.0, "matched"), "distance"] > 0


@pytest.mark.parametrize(
    ("first", "others", "options", "error", "message"),
    [
        ("{run}", ["{run}:1"], {}, UsageError, "has several.*seed-0-dense"),
        ("{run}:9", ["{run}:1"], {}, UsageError, "has no network 'seed-9-dense'"),
        ("{run}:0", ["{run}:0"], {}, UsageError, "compared with itself"),
        ("nowhere:0", ["{run}:0"], {}, UsageError, "is no network"),
        ("{run}:0", ["{run}:1"], {"layers": ("hiden1",)}, UsageError, "Did you mean 'hidden1'"),
        ("{run}:0", ["{run}:1"], {"pull": (0.0,)}, UsageError, "strengths are above 0"),
        ("{run}:0", ["{run}:1"], {"pull": (0.1,), "path": False}, UsageError, "drop --no-path"),
        ("{run}:0", ["{run}:1"], {"options": {"ig": {"steps": 5}}}, UsageError, "ig.…"),
        ("{file}", ["{run}:0"], {"model": "mlp:widths=12,8"}, UsageError, "--dataset digits"),
        ("{file}", ["{run}:0"], {"dataset": "digits"}, UsageError, "--model mlp:widths=64"),
        (
            "{file}",
            ["{run}:0"],
            {"dataset": "digits", "model": "mlp:widths=9"},
            ModelError,
            "does not fit|is not for",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    analysis, tmp_path, first, others, options, error, message
):
    file = analysis / "cells" / "seed-0-dense" / "model.safetensors"
    texts = [text.format(run=analysis, file=file) for text in (first, *others)]
    with pytest.raises(error, match=message):
        polykit.compare(*texts, out=tmp_path / "run", **{**SMALL, "metrics": (), **options})
    assert not (tmp_path / "run").exists()


def test_weights_that_were_not_kept_and_other_runs_are_refused(analysis, compared, tmp_path):
    lean = tmp_path / "lean"
    shutil.copytree(analysis, lean)
    (lean / "cells" / "seed-0-magnitude-0.4" / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"kept no weights.*--keep-weights"):
        start(lean, tmp_path / "run", "seed-0-magnitude-0.4")
    with pytest.raises(UsageError, match="is a run of 'compare'"):
        start(compared.path, tmp_path / "run", "1")
