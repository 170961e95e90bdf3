"""Says which plugin it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from polykit.api import Options
from polykit.errors import PluginError, PolykitError

_log = logging.getLogger("polykit")


@contextmanager
def blaming(plugin: Options) -> Iterator[None]:
    """Turn what a plugin raises into a PluginError that names it; polykit's own errors pass."""
    try:
        yield
    except PolykitError:
        raise
    except Exception as error:
        _log.debug("traceback", exc_info=True)
        kind = type(plugin)
        raise PluginError(
            f"plugin {kind.__name__} ({kind.__module__}) raised {type(error).__name__}: {error}; "
            f"--verbose shows the traceback"
        ) from error
