"""Entries of the built-in metrics. Torch-free: classes are named, not imported."""

from __future__ import annotations

from polykit.api import Entry, hookimpl

_HERE = "polykit_builtins.metrics"


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "metric",
            "ig",
            f"{_HERE}.ig:IntegratedGradients",
            "polysemanticity: how many features share a unit, by integrated gradients",
            "Sundararajan et al. 2017; Plettscher, Def. 14",
        ),
        Entry(
            "metric",
            "capacity",
            f"{_HERE}.capacity:Capacity",
            "how much of a layer each feature has to itself",
            "Scherlis et al. 2022, arXiv:2210.01892, eq. 1",
        ),
        Entry(
            "metric",
            "feature-dimensionality",
            f"{_HERE}.feature_dimensionality:FeatureDimensionality",
            "share of the features that the units have room for",
            "Plettscher, after Elhage et al. 2022, arXiv:2209.10652",
        ),
        Entry(
            "metric",
            "monosemanticity",
            f"{_HERE}.monosemanticity:Monosemanticity",
            "whether units fire for one feature only",
            "Jermyn et al. 2022, arXiv:2211.09169",
        ),
        Entry(
            "metric",
            "hoyer",
            f"{_HERE}.hoyer:Hoyer",
            "sparsity of activations, over units and over samples",
            "Hoyer 2004, J. Mach. Learn. Res. 5; Schoots et al., Propensity for Density",
        ),
        Entry(
            "metric",
            "selectivity",
            f"{_HERE}.selectivity:Selectivity",
            "how much more a unit responds to one class than to the others",
            "Morcos et al. 2018, arXiv:1803.06959; Schoots et al., Propensity for Density",
        ),
        Entry(
            "metric",
            "interaction-basis",
            f"{_HERE}.interaction_basis:InteractionBasis",
            "how many directions of a layer the network uses, beside its neurons",
            "Bushnaq et al. 2024, arXiv:2405.10927, §4",
        ),
        Entry(
            "metric",
            "learning-coefficient",
            f"{_HERE}.learning_coefficient:LearningCoefficient",
            "how many parameters count: the local learning coefficient, by sampling",
            "Lau et al. 2023, arXiv:2308.12108; Bushnaq et al. 2024, arXiv:2405.10927, §2",
        ),
        Entry(
            "metric",
            "synchronisation",
            f"{_HERE}.synchronisation:Synchronisation",
            "directions in weight space that change nothing, by their reason",
            "Bushnaq et al. 2024, arXiv:2405.10927, §3",
        ),
        Entry(
            "metric",
            "loss",
            f"{_HERE}.task:Loss",
            "mean test loss: cross-entropy or squared error",
        ),
        Entry(
            "metric",
            "accuracy",
            f"{_HERE}.task:Accuracy",
            "share of the test samples classified rightly",
        ),
        Entry(
            "metric",
            "density",
            f"{_HERE}.size:Density",
            "kept share of the parameters that could be pruned, nominal and effective",
        ),
        Entry(
            "metric",
            "parameters",
            f"{_HERE}.size:Parameters",
            "number of parameters that are not removed",
        ),
        Entry(
            "metric",
            "flops",
            f"{_HERE}.size:Flops",
            "operations per sample, with kept weights and with all",
        ),
    ]
