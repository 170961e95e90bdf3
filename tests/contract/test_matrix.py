"""Any pruner × any metric × any model × any dataset: each runs, or refuses with a reason."""

from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import polykit
from polykit.errors import PolykitError
from polykit.registry import Registry

REGISTRY = Registry.discover()
NAMES = {
    kind: [found.entry.name for found in REGISTRY.entries(kind)]
    for kind in ("pruner", "metric", "model", "dataset")
}
NAMES["dataset"].remove("toy")  # another name of feature-model
MODELS = {
    "mlp": "mlp:widths=8",
    "lenet": "lenet:scale=0.1",
    "conv2": "conv2:scale=0.1",
    "factory": "own_model:make",
    "toy-superposition-net": "toy-superposition-net:hidden=8",
}
VECTORS = ("feature-model", "toy-superposition")
"""Datasets of vectors with numbers to tell, not of pictures with classes."""

QUICK_METRICS = {
    "interaction-basis": {"samples": 16},
    "learning-coefficient": {"samples": 8, "chains": 2, "steps": 4, "burn_in": 0, "step": 1e-5},
}
QUICK_DESCENT = {"epochs": 2, "steps": 1, "searches": 1}
OTHER_MODELS = ["squeezenet1_1"]
"""torchvision's names are no entries; one stands for the convnets."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name, shade in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for index in range(10):
            picture = Image.new("RGB", (40, 40), (shade + index, shade, shade - index))
            picture.save(root / name / f"{index}.png")
    return root


@cache
def loaded(spec):
    return REGISTRY.create("dataset", spec).instance.load()


@pytest.mark.parametrize("metric", NAMES["metric"])
@pytest.mark.parametrize("model", [*NAMES["model"], *OTHER_MODELS])
@pytest.mark.parametrize("dataset", NAMES["dataset"])
def test_every_combination_runs_or_refuses(tmp_path, pictures, monkeypatch, dataset, model, metric):
    """All pruners at once: each is a cell of its own, and no cell may fail."""
    monkeypatch.delenv("POLYKIT_DATA_ROOT", raising=False)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    specs = {
        "imagefolder": f"imagefolder:{pictures},size=64,crop=64",
        "toy-superposition": "toy-superposition:samples=256",
    }
    spec = specs.get(dataset, dataset)
    try:
        run = polykit.analyze(
            MODELS.get(model, model),
            loaded(spec),
            pruners=NAMES["pruner"],
            metrics=[metric],
            densities=(0.5,),
            seeds=(0,),
            epochs=0,
            retrain_epochs=0,
            score_samples=8,
            eval_batch_size=64,
            options={
                **({metric: QUICK_METRICS[metric]} if metric in QUICK_METRICS else {}),
                "force": {"rounds": 3},
                **dict.fromkeys(("continuous-sparsification", "cs"), QUICK_DESCENT),
                "edge-popup": {"epochs": 2},
                "iterative-magnitude": {"rounds": 2},
                "prune-and-grow": {"rounds": 2},
            },
            registry=REGISTRY,
            out=tmp_path / "run",
        )
    except PolykitError as refusal:
        reason = f"{type(refusal).__name__}: {refusal}"
        expected = expected_refusal(dataset, model, metric)
        assert expected, f"unexpected refusal: {reason}"
        assert expected in reason
    else:
        assert not expected_refusal(dataset, model, metric)
        assert run.failures == {}
        assert set(run.rows["pruner"]) == {"dense", *NAMES["pruner"]}
        assert metric in set(run.rows["metric"])


CHAINS = ("mlp", "lenet", "factory", "toy-superposition-net")


def expected_refusal(dataset, model, metric):
    """The combinations that cannot make sense, each with a word of its reason."""
    if dataset in ("cifar10", "mnist", "fashion-mnist"):
        return "root"
    if dataset in ("webdataset", "huggingface"):
        return "was named"
    if model == "squeezenet1_1" and dataset in ("digits", *VECTORS):
        return "squeezenet1_1"
    if model in ("conv2", "resnet", "convnet") and dataset in VECTORS:
        return "it needs pictures"
    if model == "toy-superposition-net" and dataset not in VECTORS:
        return "takes vectors"
    if metric == "synchronisation" and model not in CHAINS:
        return "chains"
    if dataset in VECTORS and metric in ("accuracy", "selectivity"):
        return "class"
    return ""
