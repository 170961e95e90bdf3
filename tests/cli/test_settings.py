"""Options made from a config class, and how the layers of values are laid."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field

from polykit.cli import settings
from polykit.errors import UsageError


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rounds: int = Field(3, ge=1, description="how often")
    densities: tuple[float, ...] = Field((0.5, 0.1), description="how dense")
    control: bool = Field(True, description="whether")
    options: dict[str, dict[str, str]] = Field(default_factory=dict, description="what for")


def test_every_field_becomes_an_option():
    layout = settings.Layout({"densities": "--density"}, {"control": "A"}, "B", ("A", "B"), "MINE_")
    made = settings.parameters(Config, layout)
    options = {parameter.name: parameter.annotation.__metadata__[0] for parameter in made}
    assert list(options) == ["rounds", "densities", "control", "options"]
    flags = ["--rounds", "--density", "--control/--no-control", "-o"]
    assert [option.default for option in options.values()] == flags  # typer keeps them there
    assert options["rounds"].help == "how often (≥ 1; default: 3)."
    assert options["densities"].help == "how dense (default: 0.5 0.1). Repeatable."
    assert options["rounds"].envvar == "MINE_ROUNDS"
    assert options["options"].envvar == "MINE_OPTIONS"
    assert options["control"].rich_help_panel == "A"
    assert all(parameter.default is None for parameter in made)


@pytest.mark.parametrize("text", ["force", "force.rounds", "rounds=5", ".rounds=5", "force.=5"])
def test_options_that_cannot_be_read(text):
    with pytest.raises(UsageError, match=r"write PLUGIN\.OPTION=VALUE"):
        settings.read_options([text])


def test_values_may_hold_anything():
    read = settings.read_options(["a.b.path=x=y,z", "a.b.limit=none", "c.d="])
    assert read == {"a.b": {"path": "x=y,z", "limit": None}, "c": {"d": ""}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rounds = ", "is no TOML: Invalid value"),
        (b"\xff\xfe", "is no TOML: 'utf-8' codec"),
        (b"density = 0.5", "unknown key 'density'. Did you mean 'densities'?"),
        (None, "cannot read the config file .*: No such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "sweep.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        settings.read_file(path, Config)


def test_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text("densities = [0.2]\n[options.force]\nrounds = '5'\n")
    values = settings.read_file(path, Config)
    assert values == {"densities": [0.2], "options": {"force": {"rounds": "5"}}}


def test_bad_values_are_named_by_where_they_came_from():
    values = {"rounds": "0", "densities": ["much"]}
    origins = {"rounds": "--rounds", "densities": "densities in sweep.toml:"}
    with pytest.raises(UsageError) as caught:
        settings.build(Config, values, origins)
    rounds, densities = str(caught.value).split("; ")
    assert rounds == "--rounds '0': Input should be greater than or equal to 1"
    assert densities.startswith("densities in sweep.toml: 'much': Input should be a valid number")
