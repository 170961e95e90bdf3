"""The configuration class of every workflow; importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.basis.config import BasisConfig
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.compare.config import CompareConfig
from polykit.workflows.config import SweepConfig
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.dissect.config import DissectConfig
from polykit.workflows.laboratory.config import LaboratoryConfig
from polykit.workflows.map.config import MapConfig
from polykit.workflows.visualize.config import VisualizeConfig

CONFIGS: Mapping[str, type[SweepConfig]] = {
    "analyze": AnalyzeConfig,
    "laboratory": LaboratoryConfig,
    "density": DensityConfig,
    "basis": BasisConfig,
    "visualize": VisualizeConfig,
    "clusters": ClustersConfig,
    "dissect": DissectConfig,
    "compare": CompareConfig,
    "map": MapConfig,
}
