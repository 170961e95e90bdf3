"""All workflows, by name: how each reads its options, prepares, describes itself and works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from polykit.errors import RunError
from polykit.registry import Registry
from polykit.runtime.store import RunStore
from polykit.workflows.analyze import cells as analyze_cells
from polykit.workflows.analyze import plan as analyze_plan
from polykit.workflows.analyze import setup as analyze_setup
from polykit.workflows.basis import cells as basis_cells
from polykit.workflows.basis import plan as basis_plan
from polykit.workflows.basis import setup as basis_setup
from polykit.workflows.clusters import cells as clusters_cells
from polykit.workflows.clusters import plan as clusters_plan
from polykit.workflows.clusters import setup as clusters_setup
from polykit.workflows.compare import cells as compare_cells
from polykit.workflows.compare import plan as compare_plan
from polykit.workflows.compare import setup as compare_setup
from polykit.workflows.config import SweepConfig
from polykit.workflows.configs import CONFIGS
from polykit.workflows.density import cells as density_cells
from polykit.workflows.density import plan as density_plan
from polykit.workflows.density import setup as density_setup
from polykit.workflows.dissect import cells as dissect_cells
from polykit.workflows.dissect import plan as dissect_plan
from polykit.workflows.dissect import setup as dissect_setup
from polykit.workflows.laboratory import cells as laboratory_cells
from polykit.workflows.laboratory import plan as laboratory_plan
from polykit.workflows.laboratory import setup as laboratory_setup
from polykit.workflows.map import cells as map_cells
from polykit.workflows.map import plan as map_plan
from polykit.workflows.map import setup as map_setup
from polykit.workflows.sweep import Phase
from polykit.workflows.visualize import cells as visualize_cells
from polykit.workflows.visualize import plan as visualize_plan
from polykit.workflows.visualize import setup as visualize_setup


@dataclass(frozen=True)
class Workflow:
    """A workflow as functions: `resolve` makes what the others take.

    `closing` adds to a run's record, from what could not be read, before it is written last.
    """

    config: type[SweepConfig]
    resolve: Callable[[Any, Registry], Any]
    plan: Callable[[Any], Any]
    describe: Callable[[Any, str], dict[str, Any]]
    phases: Callable[[Any, RunStore], Sequence[Phase]]
    closing: Callable[[dict[str, Any], Sequence[str]], None] | None = None


WORKFLOWS: Mapping[str, Workflow] = {
    "analyze": Workflow(
        CONFIGS["analyze"],
        analyze_setup.resolve,
        analyze_plan.make_plan,
        analyze_cells.describe,
        analyze_cells.phases,
        analyze_cells.closing,
    ),
    "laboratory": Workflow(
        CONFIGS["laboratory"],
        laboratory_setup.resolve,
        laboratory_plan.make_plan,
        laboratory_cells.describe,
        laboratory_cells.phases,
    ),
    "density": Workflow(
        CONFIGS["density"],
        density_setup.resolve,
        density_plan.make_plan,
        density_cells.describe,
        density_cells.phases,
    ),
    "basis": Workflow(
        CONFIGS["basis"],
        basis_setup.resolve,
        basis_plan.make_plan,
        basis_cells.describe,
        basis_cells.phases,
        basis_cells.closing,
    ),
    "visualize": Workflow(
        CONFIGS["visualize"],
        visualize_setup.resolve,
        visualize_plan.make_plan,
        visualize_cells.describe,
        visualize_cells.phases,
    ),
    "clusters": Workflow(
        CONFIGS["clusters"],
        clusters_setup.resolve,
        clusters_plan.make_plan,
        clusters_cells.describe,
        clusters_cells.phases,
    ),
    "dissect": Workflow(
        CONFIGS["dissect"],
        dissect_setup.resolve,
        dissect_plan.make_plan,
        dissect_cells.describe,
        dissect_cells.phases,
    ),
    "compare": Workflow(
        CONFIGS["compare"],
        compare_setup.resolve,
        compare_plan.make_plan,
        compare_cells.describe,
        compare_cells.phases,
    ),
    "map": Workflow(
        CONFIGS["map"],
        map_setup.resolve,
        map_plan.make_plan,
        map_cells.describe,
        map_cells.phases,
        map_cells.closing,
    ),
}


def workflow_of(config: SweepConfig) -> tuple[str, Workflow]:
    """Return the workflow that a configuration is for."""
    return next((name, w) for name, w in WORKFLOWS.items() if type(config) is w.config)


def saved_config(store: RunStore) -> SweepConfig:
    """Read the configuration of a saved run; raise RunError if this polykit cannot."""
    try:
        return WORKFLOWS[store.workflow].config(**store.meta["config"])
    except ValidationError as error:
        raise RunError(
            f"{store.path / 'run.json'} holds a configuration that this polykit cannot read: "
            f"{error.errors()[0]['msg']}"
        ) from None
