"""The options that all sweeps share."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from polykit.runtime.training.config import TrainingConfig

MIN_CEILING = 0.75
"""Share of the labels' variance that the true features must explain for labels to mean much."""


SERIAL = "serial"


class SweepConfig(BaseModel):
    """How to compute, whatever the sweep is about. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("auto", description="auto, cpu, cuda or mps")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; 1 for small networks, else all cores"
    )
    engine: str = Field(SERIAL, description="engine plugin that runs the cells")

    def on(self, engine: str) -> Self:
        """Return the same sweep on another engine, which changes none of its numbers."""
        return self.model_copy(update={"engine": engine})

    def command(self) -> str:
        """The command line that repeats the sweep; empty if a command line cannot hold it."""
        return ""

    def fingerprint(self, plugins: Any) -> str:
        """Eight hex digits over every option but the engine, and over every plugin's options."""
        content = json.dumps([self.on(SERIAL).model_dump(mode="json"), plugins], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]


class PluginsConfig(SweepConfig):
    """What sweeps share that are made of plugins: a table of the plugins' options."""

    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="options of plugins, by plugin name"
    )

    @property
    def engine_names(self) -> set[str]:
        """What the engine may be called in `options`: it is written NAME:… or WHERE:NAME:…."""
        return set(self.engine.split(":")[:2])

    def on(self, engine: str) -> Self:
        """Return the same sweep on another engine, without the options of the one it has."""
        options = {n: table for n, table in self.options.items() if n not in self.engine_names}
        return self.model_copy(update={"engine": engine, "options": options})


class NetworksConfig(TrainingConfig, PluginsConfig):
    """What sweeps over trained networks share: repetitions, and what is measured of each."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of the repetitions")
    layers: tuple[str, ...] = Field(("*",), description="layers to measure (globs)")
    eval_batch_size: int = Field(512, ge=1, description="samples per chunk of a measurement")
    ensemble: int | None = Field(
        None, ge=1, description="networks trained at once; 16 for small networks, else 1"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= seed < 2**31 for seed in seeds):
            raise ValueError("seeds are whole numbers from 0 to 2147483647")
        return tuple(dict.fromkeys(seeds))


def command_line(config: SweepConfig, words: Sequence[str], flags: Mapping[str, str]) -> str:
    """Write the command `words` with every option of `config` that is not its default.

    `flags` names the options that are not called like their field; a field whose flag is empty is
    none, since `words` hold its value.
    """
    line = list(words)
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        flag = flags.get(name, f"--{name.replace('_', '-')}")
        if not flag or value == info.get_default(call_default_factory=True):
            continue
        if isinstance(value, bool):
            line.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, Mapping):
            pairs = [(plugin, o, v) for plugin, table in value.items() for o, v in table.items()]
            line += [w for p, o, v in pairs for w in (flag, f"{p}.{o}={value_text(v)}")]
        else:
            many = value if isinstance(value, tuple) else (value,)
            line += [word for item in many for word in (flag, value_text(item))]
    return shlex.join(line)


def value_text(value: Any) -> str:
    """Write a value as it is written on the command line.

    >>> value_text((0.5, 0.2)), value_text(None), value_text({"force": {"rounds": 5}})
    ('0.5,0.2', 'none', 'force.rounds=5')
    """
    if isinstance(value, Mapping):
        return " ".join(f"{name}={value_text(leaf)}" for name, leaf in _leaves(value))
    if isinstance(value, tuple | list):
        return ",".join(value_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a table of tables holds, under dotted names."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value
