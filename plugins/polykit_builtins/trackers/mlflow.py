"""A run's numbers in MLflow: a tracking server, or a database in `mlflow` below the run."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""MLflow's own variables: where runs are kept, and under which experiment (by default polykit)."""

_PATH = "polykit.path"
_LONGEST = 250
"""Characters of a name, and numbers of a request: MLflow's bounds, or below them."""

_STATUS = {"complete": "FINISHED", "interrupted": "KILLED"}


class Followed:
    """One run of MLflow, for one of polykit."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client, self._run = client, run

    def describe(self, config: Mapping[str, Any]) -> None:
        """Keep the configuration as parameters."""
        texts = {key: json.dumps(value, default=str)[:_LONGEST] for key, value in config.items()}
        params = [Param(_name(key), text) for key, text in texts.items()]
        self._client.log_batch(self._run, params=params)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers as metrics."""
        now = int(time.time() * 1000)
        every = [Metric(_name(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(every), _LONGEST):
            self._client.log_batch(self._run, metrics=every[first : first + _LONGEST])

    def close(self, status: str) -> None:
        """Tell how the run ended."""
        self._client.set_terminated(self._run, _STATUS.get(status, "FAILED"))


def start(path: Path, config: Mapping[str, Any]) -> Followed:
    """Begin to follow a run, or go on with one that was followed before."""
    client = _client(path)
    name = os.environ.get(EXPERIMENT, "polykit")
    known = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if known is None else known.experiment_id
    run = _find(client, path)
    if run is None:
        tags = {_PATH: _tag(path), "mlflow.runName": path.resolve().name}
        run = client.create_run(experiment, tags=tags).info.run_id
        followed = Followed(client, run)
        followed.describe(config)
        return followed
    client.update_run(run, status="RUNNING")
    return Followed(client, run)


def join(path: Path) -> Followed:
    """Follow a run in one more process, or begin where the first process did not."""
    client = _client(path)
    run = _find(client, path)
    return start(path, {}) if run is None else Followed(client, run)


def _client(path: Path) -> MlflowClient:
    place = path.resolve() / "mlflow"
    uri = os.environ.get(URI)
    if not uri:
        place.mkdir(exist_ok=True)
        uri = f"sqlite:///{place / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri)


def _find(client: MlflowClient, path: Path) -> str | None:
    """Return the run of MLflow that follows the run at `path`, if there is one."""
    experiment = client.get_experiment_by_name(os.environ.get(EXPERIMENT, "polykit"))
    if experiment is None:
        return None
    ours = f"tags.`{_PATH}` = '{_tag(path)}'"
    found = client.search_runs([experiment.experiment_id], ours, max_results=1)
    return found[0].info.run_id if found else None


def _tag(path: Path) -> str:
    """Tell a polykit run by its path, without what would end a quoted text."""
    return re.sub(r"['\"\\]", "_", str(path.resolve()))


def _name(text: str) -> str:
    """Write a name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", text)[-_LONGEST:]
