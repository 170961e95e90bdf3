"""Contract tests for plugins, one line in a plugin package's own tests:

    import polykit.testing

    test_contract = polykit.testing.contract("my-distribution")

pytest then runs every check that polykit makes of a plugin of its kind over every Entry of the
installed distribution, one test each. A refusal (a `PolykitError` that says why) counts as an
answer, but each plugin must run on something.
"""  # noqa: D400, D415 - the first line leads to the example

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from polykit.registry import Registry
from polykit.testing.checks import CHECKS
from polykit.testing.plugin import Plugin, expect
from polykit.testing.state import unchanged

__all__ = ["contract", "unchanged"]


def contract(
    distribution: str,
    *,
    options: Mapping[str, Callable[[Path], Mapping[str, Any]]] | None = None,
) -> Callable[..., None]:
    """Return a pytest test, parametrised over every check of every plugin of a distribution.

    `options` helps plugins whose defaults cannot run, such as a dataset that reads files: plugin
    name → function that takes an empty folder and returns the options to test with.
    """
    registry = Registry.discover()
    cases = [pytest.param(partial(_installed, registry, distribution), id="installed")]
    for found in registry.entries():
        if found.distribution == distribution:
            make = (options or {}).get(found.entry.name)
            plugin = Plugin(registry, found, make or (lambda _: {}))
            for check in CHECKS[found.entry.kind]:
                name = check.__name__.replace("_", "-")
                label = f"{found.entry.kind}-{found.entry.name}-{name}"
                cases.append(pytest.param(partial(check, plugin), id=label))

    @pytest.mark.parametrize("check", cases)
    def test_contract(check: Callable[[Path], None], tmp_path: Path) -> None:
        check(tmp_path)

    return test_contract


def _installed(registry: Registry, distribution: str, folder: Path) -> None:
    plugins = [plugin for plugin in registry.plugins if plugin.distribution == distribution]
    installed = sorted({plugin.distribution for plugin in registry.plugins})
    expect(
        bool(plugins),
        f"no installed distribution {distribution!r} has an entry point in the group 'polykit' "
        f"(there are: {', '.join(installed)}); install it with: pip install -e .",
    )
    for plugin in plugins:
        expect(plugin.status == "ok", f"{plugin.name} is {plugin.status}: {plugin.problem}")
