"""The house: imports only go down, and the core never names a built-in plugin."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [
    {"polykit.errors"},
    {"polykit.types"},
    {"polykit.api"},
    {"polykit.hookspecs"},
    {"polykit.entries", "polykit.runtime"},
    {"polykit.registry"},
    {"polykit.workflows", "polykit.report"},
    {"polykit.session"},
    {"polykit.cli", "polykit.testing"},
    {"polykit", "polykit.__main__"},
]
BUILTINS_MAY_USE = {"polykit.api", "polykit.types", "polykit.errors", "polykit.runtime"}


def modules(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "template" in path.parts:
            continue
        parts = path.relative_to(ROOT if folder == "polykit" else ROOT / "plugins").with_suffix("")
        yield ".".join(p for p in parts.parts if p != "__init__"), path


KNOWN = {name for folder in ("polykit", "plugins") for name, _ in modules(folder)}


def imports(path):
    """Every polykit module that a file names in an import, deferred and typing imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in KNOWN else node.module


def floor(module):
    rooms = [(room, level) for level, rooms in enumerate(FLOORS) for room in rooms]
    matching = [r for r in rooms if module == r[0] or module.startswith(r[0] + ".")]
    return max(matching, key=lambda room: len(room[0]))


@pytest.mark.parametrize(("name", "path"), list(modules("polykit")))
def test_imports_go_down(name, path):
    room, level = floor(name)
    for used in imports(path):
        if used.split(".")[0] == "polykit_builtins":
            pytest.fail(f"{name} names the built-in {used}")
        if used.split(".")[0] == "polykit" and used != "polykit":
            other, below = floor(used)
            assert other == room or below < level, f"{name} uses {used}"


@pytest.mark.parametrize(("name", "path"), list(modules("plugins")))
def test_builtins_use_what_a_third_party_may(name, path):
    for used in imports(path):
        if used.split(".")[0] == "polykit":
            assert floor(used)[0] in BUILTINS_MAY_USE, f"{name} uses {used}"


def test_no_circles():
    files = dict([*modules("polykit"), *modules("plugins")])
    graph = {
        name: {u for u in imports(path) if u in files} - {name} for name, path in files.items()
    }
    graph["polykit"] = set()  # its imports are deferred: a face for those outside
    while graph:
        leaves = {name for name, used in graph.items() if not used & graph.keys()}
        assert leaves, f"these modules import each other: {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in leaves}


def test_every_public_room_is_on_a_floor():
    rooms = {f"polykit.{p.stem}" for p in (ROOT / "polykit").iterdir() if p.stem[0] not in "_."}
    assert {r for r in rooms if r != "polykit.py"} <= set().union(*FLOORS)
