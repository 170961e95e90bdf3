"""The options of `map`: the one place of their names, bounds and defaults."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from polykit.errors import did_you_mean
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.config import SweepConfig, value_text

OWN = frozenset(SweepConfig.model_fields)
"""What is said once, for the whole map, and not in its analysis."""


class MapConfig(SweepConfig):
    """An analysis, and the values of its options to try. Immutable; written as a recipe."""

    analysis: dict[str, Any] = Field(
        default_factory=dict, description="the analysis: fields of the workflow analyze"
    )
    vary: dict[str, tuple[Any, ...]] = Field(
        description="values to try, by field of the analysis or by PLUGIN.OPTION"
    )
    show: tuple[str, ...] = Field(
        ("loss.loss",), min_length=1, description="what is mapped, as METRIC.STATISTIC"
    )

    @field_validator("vary")
    @classmethod
    def _some(cls, vary: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, values in vary.items():
            if not values:
                raise ValueError(f"{name} has no value to try")
            if len({value_text(value) for value in values}) < len(values):
                raise ValueError(f"{name} names a value twice")
        if not vary:
            raise ValueError("name an option to vary, e.g. lr = [0.003, 0.03]")
        return vary

    @field_validator("show")
    @classmethod
    def _statistics(cls, show: tuple[str, ...]) -> tuple[str, ...]:
        for text in show:
            if not all(text.rpartition(".")[::2]):
                raise ValueError(f"{text!r} is no METRIC.STATISTIC, such as loss.loss")
        return tuple(dict.fromkeys(show))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        fields = AnalyzeConfig.model_fields
        for name in (*self.analysis, *self.vary):
            if name in OWN:
                raise ValueError(f"{name} is said for the whole map, beside [analysis], not in it")
            if name not in fields and (name in self.analysis or "." not in name):
                hint = did_you_mean(name, fields)
                raise ValueError(f"an analysis has no option {name!r}.{hint}")
        for name in self.vary:
            if name in self.analysis:
                raise ValueError(f"{name} is in [analysis] and in [vary]; drop one of them")
        for values in self.grid():
            try:
                self.at(values)
            except ValidationError as error:
                problem = error.errors()[0]
                place = ".".join(str(part) for part in problem["loc"])
                reason = problem["msg"].removeprefix("Value error, ")
                raise ValueError(f"analysis at {_text(values)}: {place} {reason}") from None
        return self

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield the values of every point, the last option changing fastest."""
        for values in itertools.product(*self.vary.values()):
            yield dict(zip(self.vary, values, strict=True))

    def at(self, values: Mapping[str, Any]) -> AnalyzeConfig:
        """Return the analysis of one point.

        >>> config = MapConfig(analysis={"epochs": 3}, vary={"lr": (0.1,), "mlp.widths": ("8",)})
        >>> config.at({"lr": 0.1, "mlp.widths": "8"}).command()
        'polykit analyze -o mlp.widths=8 --lr 0.1 --epochs 3'
        """
        fields = {**self.analysis, **{name: getattr(self, name) for name in OWN - {"engine"}}}
        options = {name: dict(table) for name, table in fields.pop("options", {}).items()}
        for name, value in values.items():
            plugin, dot, option = name.rpartition(".")
            if dot:
                options.setdefault(plugin, {})[option] = value
            else:
                fields[name] = value
        return AnalyzeConfig(**fields, options=options)

    def command(self) -> str:
        """Nothing: a command line cannot hold a map; its recipe can."""
        return ""


def _text(values: Mapping[str, Any]) -> str:
    return shlex.join(f"{name}={value_text(value)}" for name, value in values.items())
