"""The runs that lie below a run, such as the dissections of its units."""

from __future__ import annotations

from polykit.errors import RunError
from polykit.runtime.store import RunStore, SavedRun


def runs_below(run: SavedRun, folder: str) -> tuple[list[SavedRun], list[str]]:
    """Return the runs in a folder of a run, by name, and what is said of those left out.

    A run that is damaged, or has not got its tables yet, must not hide the others.
    """
    found, notices = [], []
    for path in sorted((run.path / folder).glob("*/run.json")):
        try:
            found.append(RunStore.open(path.parent).load())
        except RunError as error:
            notices.append(f"{folder}/{path.parent.name} is left out: {error}")
    return found, notices
