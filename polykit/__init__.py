"""polykit: any pruner × any metric × any model × any dataset.

- `polykit.analyze(model, dataset, …)` is the main job: prune, and measure what that did.
- `polykit.clusters(model, dataset, …)` looks for units that several groups of pictures drive,
  `polykit.dissect(run, …)` for the parts behind the groups, `polykit.visualize(run, …)` shows what
  the units look for.
- `polykit.density(model, dataset, …)` asks how many weights networks need.
- `polykit.basis(model, dataset, …)` tells what acts on what between layers.
- `polykit.compare(a, b, …)` looks at what lies between networks.
- `polykit.open_run(path)` opens a saved run, `polykit.load_subnetwork(path)` reads a part that a
  dissection cut out.

All are imported when first used, so that `import polykit` alone stays quick.
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
    "visualize",
]

if TYPE_CHECKING:
    from polykit.runtime.pruning.subnetworks import load_subnetwork
    from polykit.session import (
        Run,
        analyze,
        basis,
        clusters,
        compare,
        density,
        dissect,
        open_run,
        visualize,
    )


def __getattr__(name: str) -> Any:
    if name == "load_subnetwork":
        from polykit.runtime.pruning.subnetworks import load_subnetwork

        return load_subnetwork
    if name in __all__:
        from polykit import session

        return getattr(session, name)
    raise AttributeError(f"module 'polykit' has no attribute {name!r}")
