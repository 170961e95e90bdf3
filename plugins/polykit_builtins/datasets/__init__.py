"""Entries of the built-in datasets. Torch-free: classes are named, not imported."""

from __future__ import annotations

from polykit.api import Entry, hookimpl

_HERE = "polykit_builtins.datasets"


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "dataset",
            "digits",
            f"{_HERE}.digits:Digits",
            "1,797 handwritten digits of 8×8 pixels; needs no download",
            "Alpaydin & Kaynak 1998, as shipped with scikit-learn",
        ),
        Entry(
            "dataset",
            "feature-model",
            f"{_HERE}.feature_model:FeatureModel",
            "regression with known features, by scenario: feature-model:N2",
            "Plettscher, §3.2; exact labels in place of the seed search unless generator=faithful",
        ),
        Entry(
            "dataset",
            "toy",
            f"{_HERE}.feature_model:FeatureModel",
            "another name of feature-model: 16 features, 1,600 samples, exact labels",
            "Plettscher, §3.2, scenario N1 with exact labels",
        ),
        Entry(
            "dataset",
            "toy-superposition",
            f"{_HERE}.toy_superposition:ToySuperposition",
            "rare features embedded in fewer inputs, to be read out again",
            "Jermyn et al. 2022, Engineering monosemanticity in toy models, arXiv:2211.09169, §3",
        ),
        Entry(
            "dataset",
            "mnist",
            f"{_HERE}.vision:Mnist",
            "70,000 handwritten digits of 28×28 pixels; needs a data root",
            "LeCun et al. 1998",
        ),
        Entry(
            "dataset",
            "fashion-mnist",
            f"{_HERE}.vision:FashionMnist",
            "70,000 pictures of clothes, 28×28 pixels; needs a data root",
            "Xiao et al. 2017, arXiv:1708.07747",
        ),
        Entry(
            "dataset",
            "cifar10",
            f"{_HERE}.vision:Cifar10",
            "60,000 colour pictures of 32×32 pixels in ten classes; needs a data root",
            "Krizhevsky 2009, Learning multiple layers of features from tiny images",
        ),
        Entry(
            "dataset",
            "imagefolder",
            f"{_HERE}.imagefolder:ImageFolder",
            "your own pictures, one folder per class: imagefolder:PATH",
        ),
        Entry(
            "dataset",
            "webdataset",
            f"{_HERE}.webdataset:WebDataset",
            "your own pictures in tar shards: webdataset:FOLDER or webdataset:train-{000..146}.tar",
            "Aizman, Maltby & Breuel 2019, arXiv:2001.01858",
        ),
        Entry(
            "dataset",
            "huggingface",
            f"{_HERE}.huggingface:HuggingFace",
            "pictures in a Hugging Face dataset: huggingface:FOLDER or huggingface:NAME",
            "Lhoest et al. 2021, arXiv:2109.02846",
            requires=("datasets",),
        ),
    ]
