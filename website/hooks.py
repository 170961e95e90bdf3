"""What mkdocs calls while it builds the site: generated parts, pictures and formulas are put in.

A page asks for a generated part with a comment of its own, so that it reads well without it, too:

    <!-- generated: options pruner force -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import command_reference
from inline_pictures import inline_pictures
from licences import licence_table
from mathml import draw_formulas
from plugin_tables import catalogue, methods, options

_PLACE = re.compile(r"^<!-- generated: (\w[\w-]*)((?: \S+)*) -->$", re.MULTILINE)
_PARTS: dict[str, Callable[..., str]] = {
    "commands": command_reference,
    "licences": licence_table,
    "methods": methods,
    "options": options,
    "plugins": catalogue,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts into a page."""
    return _PLACE.sub(lambda found: _PARTS[found[1]](*found[2].split()), markdown)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Draw a page's formulas, and put its SVG pictures into it, so that they take its colours."""
    return draw_formulas(inline_pictures(html, Path(page.file.abs_src_path).parent))
