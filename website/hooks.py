"""What mkdocs calls while it builds the site: generated parts are put in, formulas are drawn.

A page asks for a generated part with a comment of its own, so that it reads well without it, too:

    <!-- generated: options pruner force -->
"""

from __future__ import annotations

import re
from typing import Any

from commands import command_reference
from mathml import draw_formulas
from plugin_tables import catalogue, options

_PLACE = re.compile(r"^<!-- generated: (\w[\w-]*)((?: \S+)*) -->$", re.MULTILINE)
_PARTS = {"commands": command_reference, "plugins": catalogue, "options": options}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts into a page."""
    return _PLACE.sub(lambda found: _PARTS[found[1]](*found[2].split()), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Draw a page's formulas."""
    return draw_formulas(html)
