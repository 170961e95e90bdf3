"""`polykit data`: what a dataset is made of, and how well it came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polykit.cli.group import state_of
from polykit.cli.output import print_json, say
from polykit.cli.runs import JsonOption

EXAMPLES = """Load a dataset and show its sizes and its card: what to know before believing results.

\b
  polykit data digits
  polykit data feature-model:N4,generator=faithful
  polykit data feature-model:N2 --save world.safetensors
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(help=EXAMPLES)
def data(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="NAME or NAME:OPTION=VALUE,…")],
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the ground truth, to load it again from there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """See EXAMPLES, which is what `--help` shows."""
    from polykit import session

    registry = state_of(ctx).working_registry()
    found = session.load_data(dataset, registry)
    if save is not None:
        session.save_truth(found, save)
    card = found.card()
    shown = {
        "name": found.name,
        "task": found.task,
        "input_shape": list(found.input_shape),
        "outputs": found.outputs,
        "train": len(found.train),
        "validation": len(found.validation),
        "test": len(found.test),
        "features": found.features.n_features if found.features else None,
    }
    if as_json:
        print_json({**shown, "card": [vars(fact) for fact in card]})
        return
    for name, value in shown.items():
        text = "×".join(map(str, value)) if isinstance(value, list) else value
        if value is not None:
            say(f"{name:<18} {text}")
    for fact in card:
        unit = f" {fact.unit}" if fact.unit else ""
        say(f"{fact.name:<18} {fact.value:.4g}{unit}  {fact.summary}")
    if save is not None:
        say(f"saved              {save}")
