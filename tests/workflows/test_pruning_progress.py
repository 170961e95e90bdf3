"""A learned mask in a whole analysis: plugins hear how it goes, and the task is served."""

from __future__ import annotations

from pathlib import Path

import polykit
from polykit.api import hookimpl
from polykit.registry import Registry


class Listener:
    """Notes every word of a pruner's progress."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int, int, dict[str, float]]] = []

    @hookimpl
    def polykit_pruning(
        self, cell: str, pruner: str, step: int, steps: int, numbers: dict[str, float]
    ) -> None:
        """Note it."""
        self.heard.append((cell, pruner, step, steps, dict(numbers)))


def test_continuous_sparsification_in_an_analysis(tmp_path: Path) -> None:
    """Without retraining, a tenth of the weights, if learned, keeps most of the accuracy."""
    listener, registry = Listener(), Registry.discover()
    registry.register(listener, "listener")
    run = polykit.analyze(
        "mlp",
        "digits",
        pruners=["cs", "magnitude"],
        metrics=[],
        densities=(0.1,),
        seeds=(0,),
        epochs=15,
        retrain_epochs=0,
        options={"cs": {"epochs": 15, "searches": 3}},
        registry=registry,
        out=tmp_path / "run",
    )
    rows = run.rows.query("metric == 'accuracy'").set_index("pruner")["value"]
    assert rows["cs"] > 0.8
    assert rows["magnitude"] < 0.7
    cells = {(cell, pruner) for cell, pruner, *_ in listener.heard}
    assert cells == {("seed-0-cs-0.1", "cs")}
    assert [step for _, _, step, *_ in listener.heard][:15] == list(range(1, 16))
    last = listener.heard[-1][-1]
    assert abs(last["density"] - 0.1) < 1e-3
    assert {"loss", "hard_loss", "penalty", "price"} <= last.keys()
