"""A figure as bytes: SVG that follows its page's ink, PNG on white. The same bytes each time."""

from __future__ import annotations

import html
import io
import re

from matplotlib.figure import Figure

from polykit.report.style import INK, figure_style
from polykit.report.words import visible

_DARK_INK = "#e6e9ee"


def svg(figure: Figure) -> str:
    """Return a figure as a standalone SVG document whose ink is `currentColor`.

    The ink follows the reader's light or dark mode wherever the file is shown as a picture.
    """
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with figure_style():
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = visible(buffer.getvalue().decode())
    text = re.sub(r"<!--.*?-->\n?", "", text[text.index("<svg") :], flags=re.DOTALL)
    modes = f"svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{_DARK_INK}}}}}"
    text = text.replace(INK, "currentColor")
    return text.replace("</style>", f"{modes}</style>", 1)


def inline_svg(text: str, prefix: str, alt: str) -> str:
    """Turn `svg`'s document into an element of an HTML page.

    Ids get `prefix`, so that figures of one page do not share them; style and namespaces go, for
    they are the page's business; `alt` becomes the text alternative.
    """
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    text = text.replace('xlink:href="#', f'href="#{prefix}-')
    label = html.escape(visible(alt), quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG on a white ground."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(
            buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()
