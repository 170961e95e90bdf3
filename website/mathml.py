"""Formulas as MathML, which browsers draw by themselves: no script and no font is fetched."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def draw_formulas(page: str) -> str:
    r"""Replace the formulas that `pymdownx.arithmatex` marked in a page's HTML.

    >>> "<mi>x</mi>" in draw_formulas(r'<span class="arithmatex">\(x\)</span>')
    True
    """
    return _FORMULA.sub(_draw, page)


def _draw(found: re.Match[str]) -> str:
    display = "block" if found["open"] == "[" else "inline"
    tag = found["tag"]
    formula = convert(html.unescape(found["tex"]).strip(), display=display)
    return f'<{tag} class="formula">{formula}</{tag}>'
