"""The nouns: plain data that passes between rooms. Nothing here knows a plugin or a file."""

from polykit.types.data import Batch, Data, Fact, FeatureSpace, Split
from polykit.types.masks import Candidates, Competition, Granularity, Mask, Scores
from polykit.types.measurement import Column, Measurement, Subject
from polykit.types.objective import Batches, Objective
from polykit.types.pictures import Denormalise
from polykit.types.structure import Smaller
from polykit.types.units import At, LayerCall, Site, Trace, UnitRef

__all__ = [
    "At",
    "Batch",
    "Batches",
    "Candidates",
    "Column",
    "Competition",
    "Data",
    "Denormalise",
    "Fact",
    "FeatureSpace",
    "Granularity",
    "LayerCall",
    "Mask",
    "Measurement",
    "Objective",
    "Scores",
    "Site",
    "Smaller",
    "Split",
    "Subject",
    "Trace",
    "UnitRef",
]
