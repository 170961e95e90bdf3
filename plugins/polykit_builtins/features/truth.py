"""The features that a dataset was made from."""

from __future__ import annotations

from polykit.api import FeatureSpacePlugin
from polykit.errors import DataError
from polykit.types import FeatureSpace, Subject


class Truth(FeatureSpacePlugin):
    """The ground truth that a constructed dataset brings along."""

    def build(self, subject: Subject) -> FeatureSpace:
        """Return `data.features`; raise DataError where the data has none."""
        data = subject.data
        if data.features is None:
            other = (
                "use the feature space 'classes'"
                if data.task == "classification"
                else "use data that has, such as the dataset 'toy'"
            )
            raise DataError(f"{data.name} has no ground-truth features; {other}")
        return data.features
