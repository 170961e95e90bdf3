"""The errors polykit raises on purpose.

Each message names the thing, the reason and the remedy. The command line prints them without a
traceback and leaves with `exit_code`; anything else that escapes is a bug in polykit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PolykitError(Exception):
    """Base of all errors a user can mend."""

    exit_code = 1


class UsageError(PolykitError):
    """What was asked for cannot be: an unknown name, a bad option, a density outside (0, 1]."""

    exit_code = 2


class PluginError(PolykitError):
    """A plugin that was asked for is broken: it raises at import, at registration or at work."""

    exit_code = 3


class DataError(PolykitError):
    """A dataset cannot be read, or cannot serve what is asked of it."""


class ModelError(PolykitError):
    """A model or checkpoint cannot be loaded, or cannot serve what is asked of it."""


class TrainingError(PolykitError):
    """Training diverged or cannot start."""


class RunError(PolykitError):
    """A run directory cannot be written, read or resumed."""


class DiskFullError(RunError):
    """There is no space left to write to, so no other part of the run could be kept either."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known name, or an empty string.

    >>> did_you_mean("forse", ["force", "snip"])
    " Did you mean 'force'?"
    >>> did_you_mean("zzz", ["force", "snip"])
    ''
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
