"""The metric of directions in use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import polykit
from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.runtime.samples.splits import TensorSplit
from polykit.testing.samples import datasets, networks, subject
from polykit.types import Measurement
from polykit_builtins.metrics.interaction_basis import InteractionBasis


def measured(model: nn.Module, x: Tensor, **options: object) -> Measurement:
    data = replace(datasets()["classes"], test=TensorSplit(x, torch.zeros(len(x))))
    found = subject(Registry.discover(), model, data, batch_size=7)
    return measure_all([InteractionBasis(**options)], found)[0]


def inputs(n: int = 200) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def test_counts_of_a_network_with_known_directions() -> None:
    """Twelve units of which one is dead and one a copy, then eight; four outputs."""
    model = networks()["mlp"]
    with torch.no_grad():
        for layer in (model[1], model[3], model[5]):
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
        model[1].weight[0], model[1].bias[0] = 0, -1
        model[1].weight[2], model[1].bias[2] = model[1].weight[1], model[1].bias[1]
    result = measured(model, inputs())
    first, second = result.layers["1"], result.layers["3"]
    assert (first["activation_rank"], first["neurons"]) == (11, 12)
    alive = int((model[:5](inputs()) > 0).any(dim=0).sum())
    assert second["activation_rank"] == second["neurons"] == alive + 1
    assert second["jacobian_rank"] == second["rank"] == 4  # no more than outputs
    assert first["rank"] <= min(first["jacobian_rank"], 11)
    for values, width in ((first, 13), (second, 9)):
        assert values["rank_share"] == values["rank"] / width
        assert 1 <= values["effective_rank"] <= values["rank"]
        assert 1 <= values["effective_neurons"] <= values["neurons"]
        assert values["limited_by_samples"] == 0
    assert result.summary["rank"] == first["rank"] + second["rank"]
    assert result.summary["rank_share"] == result.summary["rank"] / 22


def test_effective_numbers_are_those_of_the_matrices() -> None:
    model, x = networks()["mlp"], inputs()
    result = measured(model, x)
    model.double()
    f = model[:5](x.double()).detach()
    f = torch.cat([torch.ones(len(f), 1), f], dim=1)
    slopes = torch.cat([model[5].bias[:, None], model[5].weight], dim=1).detach()
    G, M = f.T @ f / len(f), slopes.T @ slopes
    for weights, name in (
        (torch.linalg.eigvals(G @ M).real.clamp(min=0), "effective_rank"),  # D_M is its spectrum
        (G.diagonal() * M.diagonal(), "effective_neurons"),
    ):
        shares = weights / weights.sum()
        expected = float(torch.special.entr(shares).sum().exp())
        assert result.layers["3"][name] == pytest.approx(expected, rel=1e-6)
    spectrum = torch.linalg.eigvals(G @ M).real.sort(descending=True).values[:4]
    torch.testing.assert_close(result.arrays["spectrum/3"], spectrum)


def test_too_few_samples_are_reported(caplog) -> None:
    result = measured(networks()["mlp"], inputs(5))
    assert "the rank of 1, 3 is limited by the number of samples, 5" in caplog.text
    assert result.layers["1"]["limited_by_samples"] == 1
    assert result.layers["1"]["activation_rank"] == 5
    assert result.layers["1"]["rank_share"] == result.layers["1"]["rank"] / 13
    assert measured(networks()["convnet"], inputs(5)).summary["limited_by_samples"] == 0  # maps


def test_only_the_first_samples_if_asked() -> None:
    model, x = networks()["mlp"], inputs(40)
    some, whole = measured(model, x, samples=17), measured(model, x[:17])
    assert some.summary == pytest.approx(whole.summary)
    assert some.summary["effective_rank"] != pytest.approx(
        measured(model, x).summary["effective_rank"]
    )


def test_pruning_takes_directions_away(tmp_path) -> None:
    run = polykit.analyze(
        "mlp:widths=16",
        "digits",
        pruners=["magnitude"],
        metrics=["interaction-basis"],
        densities=(0.05,),
        seeds=(0,),
        epochs=1,
        retrain_epochs=0,
        out=tmp_path / "run",
    )
    rows = run.rows[(run.rows["layer"] == "all") & (run.rows["statistic"] == "rank")]
    ranks = rows.set_index("pruner")["value"]
    assert ranks["magnitude"] < ranks["dense"]
