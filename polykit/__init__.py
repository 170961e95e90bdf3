"""polykit: any pruner × any metric × any model × any dataset.

`polykit.analyze(model, dataset, …)` is the main job; `polykit.clusters(model, dataset, …)` looks
for units that several groups of pictures drive, `polykit.dissect(run, …)` for the parts behind the
groups; `polykit.density(model, dataset, …)` asks how many weights networks need,
`polykit.basis(model, dataset, …)` what acts on what between layers; `polykit.open_run(path)` looks
at a saved run, and `polykit.load_subnetwork(path)` reads a part that a dissection cut out. All are
imported when first used, so that `import polykit` alone stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Run",
    "analyze",
    "basis",
    "clusters",
    "compare",
    "density",
    "dissect",
    "load_subnetwork",
    "open_run",
]

if TYPE_CHECKING:
    from polykit.runtime.pruning.subnetworks import load_subnetwork
    from polykit.session import Run, analyze, basis, clusters, compare, density, dissect, open_run


def __getattr__(name: str) -> Any:
    if name == "load_subnetwork":
        from polykit.runtime.pruning.subnetworks import load_subnetwork

        return load_subnetwork
    if name in __all__:
        from polykit import session

        return getattr(session, name)
    raise AttributeError(f"module 'polykit' has no attribute {name!r}")
