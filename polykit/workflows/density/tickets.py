"""Lottery tickets beside the whole network and random ones, and how alike their units are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from torch import nn

from polykit.entries import Chosen
from polykit.runtime.clusters.separation import correlation
from polykit.runtime.clusters.specificity import shuffled
from polykit.runtime.seeds import generator
from polykit.runtime.training.loop import evaluate
from polykit.types.measurement import ALL_LAYERS
from polykit.workflows.density.network import Network
from polykit.workflows.measuring import Measured, measure

DENSE, TICKET, RANDOM = "dense", "ticket", "random"
"""The networks that are compared: whole, the ticket, and a random mask as dense in each layer."""

FEWEST = 3
"""Units below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Tickets:
    """What came of tickets: rows of metrics, rows of how alike units are, and remarks."""

    rows: list[dict[str, Any]]
    alike: list[dict[str, Any]]
    notices: list[str]


def tickets(network: Network, chosen: Chosen, dense: Measured) -> Tickets:
    """Find a lottery ticket, train it and a random one, and measure both as `dense` was.

    All three start from the same weights. The random ticket keeps as many weights of each layer
    as the ticket does. `alike` holds Spearman's correlation of each unit statistic with the same
    units' in the dense network.
    """
    start = network.prepared(chosen.name, chosen.instance)
    density = network.setup.config.ticket_density
    ticket = network.prune(chosen.name, chosen.instance, start, density, use="ticket")
    draw = generator(network.cell.seed, "random ticket")
    drawn = shuffled(ticket, network.kind.candidates, draw)
    whole = _told(DENSE, network, network.model, dense)
    found = Tickets(whole, [], [])
    for name, mask in ((TICKET, ticket), (RANDOM, drawn)):
        model = network.train(start, mask)
        measured = measure(network.setup.metrics, network.subject(model, mask))
        found.rows.extend(_told(name, network, model, measured))
        found.alike.extend({"network": name, **row} for row in same_units(dense, measured))
        found.notices.extend(f"{name}: {line}" for line in measured.notices)
    return found


def same_units(dense: Measured, other: Measured) -> list[dict[str, Any]]:
    """Return Spearman's correlation over units of every unit statistic of two networks.

    Over all units, and by layer; units that are silent in either network are left out, where the
    metric tells. Rows with fewer than three units are left out.
    """
    if not dense.units or not other.units:
        return []
    rows = []
    for one, two in zip(dense.units, other.units, strict=True):
        both = one.merge(two, on=["metric", "layer", "unit", "statistic"], suffixes=("", "_other"))
        silent = both[(both["statistic"] == "silent") & (both["value"] + both["value_other"] > 0)]
        gone = set(zip(silent["layer"], silent["unit"], strict=True))
        places = pd.Series(list(zip(both["layer"], both["unit"], strict=True)), index=both.index)
        left = both[~places.isin(gone) & (both["statistic"] != "silent")]
        for (metric, statistic), part in left.groupby(["metric", "statistic"], sort=False):
            place = {"metric": metric, "statistic": statistic}
            for layer, units in [(ALL_LAYERS, part), *part.groupby("layer", sort=False)]:
                if len(units) >= FEWEST:
                    rho = spearman(units["value"].to_numpy(), units["value_other"].to_numpy())
                    rows.append({**place, "layer": layer, "value": rho, "units": len(units)})
    return rows


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where one does not vary.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0]))
    1.0
    """
    return correlation(rankdata(a), rankdata(b))


def _told(
    name: str, network: Network, model: nn.Module, measured: Measured
) -> list[dict[str, Any]]:
    config, data = network.setup.config, network.data
    loss, accuracy = evaluate(
        model, data.test, data.task, network.setup.device, config.eval_batch_size
    )
    plain = {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}
    rows = [
        {"metric": metric, "layer": ALL_LAYERS, "statistic": metric, "value": value}
        for metric, value in plain.items()
    ]
    return [{"network": name, **row} for row in [*rows, *measured.rows]]
