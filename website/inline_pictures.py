"""Pictures as part of the page: SVG whose ink follows the reader's choice of light or dark."""

from __future__ import annotations

import html
import re
from pathlib import Path

from polykit.report.render import inline_svg

_PICTURE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<path>[^":]*\.svg)" ?/?>')


def inline_pictures(page: str, folder: Path) -> str:
    """Replace the links to SVG files, which are relative to `folder`, by what the files hold."""
    return _PICTURE.sub(lambda found: _inline(found, folder), page)


def _inline(found: re.Match[str], folder: Path) -> str:
    path = folder / found["path"]
    return inline_svg(path.read_text(encoding="utf-8"), path.stem, html.unescape(found["alt"]))
