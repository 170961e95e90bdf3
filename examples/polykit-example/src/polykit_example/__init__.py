"""The plugins of polykit-example, one line each. Imports no torch, so listing plugins is quick."""

from __future__ import annotations

from polykit.api import Entry, hookimpl


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this package."""
    return [
        Entry(
            "pruner",
            "wanda",
            "polykit_example.wanda:Wanda",
            "weight times the size of what flows into it; needs no gradient",
            source="Sun et al. 2023, A simple and effective pruning approach for LLMs, eq. 1",
        ),
        Entry(
            "metric",
            "kurtosis",
            "polykit_example.kurtosis:Kurtosis",
            "how heavy-tailed each unit's activations are over the samples",
            source="excess kurtosis, m4 / m2² − 3, of the population",
        ),
        Entry(
            "dataset",
            "wine",
            "polykit_example.wine:Wine",
            "178 wines by 13 chemical measurements, three growers; needs no download",
            source="Aeberhard and Forina 1991, UCI repository, as shipped with scikit-learn",
        ),
    ]
