"""Draws the pictures of the methods' pages, from small networks trained on the spot.

    python website/pictures [NAME …]

Without names all are drawn, in a few minutes on one core. The same machine draws the same
bytes; docs/methods holds what comes out, so that building the site trains nothing.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import features
import metrics
import pruners
from runs import Runs

from polykit.report.render import svg

PAGES = Path(__file__).parents[2] / "docs" / "methods"
PICTURES = {"pruners": pruners.PICTURES, "metrics": metrics.PICTURES, "features": features.PICTURES}
_PLACES = re.compile(r'translate\([^)]*\)|\b(d|x|y)="[^"]*"')


def compact(document: str) -> str:
    """Leave out what nobody sees: indents, places below a tenth of a point, glyphs' long names.

    >>> compact('<path d="M 1.2345 7" style="opacity: 0.15"/>')
    '<path d="M 1.2 7" style="opacity: 0.15"/>'
    """
    document = _PLACES.sub(lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), document)
    return re.sub(r"\n\s+", "\n", document.replace("DejaVuSans-", "g"))


def main(names: list[str]) -> None:
    """Draw the pictures of `names`, or all."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for kind, pictures in PICTURES.items():
            for name, draw in pictures.items():
                if not names or name in names:
                    path = PAGES / kind / f"{name}.svg"
                    path.write_text(compact(svg(draw(runs))), encoding="utf-8")
                    print(f"{path.relative_to(PAGES)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
