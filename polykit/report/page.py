"""One self-contained HTML page from a saved run: no network, no framework, works from a file."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from polykit.report import render, tables, words
from polykit.report.drawing import Drawn
from polykit.report.images import ROOM, Image, Sources
from polykit.report.reports import draw_all, report_of
from polykit.runtime.files import write_bytes
from polykit.runtime.store import SavedRun

_TEMPLATES = resources.files("polykit.report") / "templates"


def write_report(run: SavedRun) -> Path:
    """Write `figures/*.svg`, `figures/*.png` and `report.html` into the run; return the page.

    Pictures that the page has no room for go into the folder `report-pictures` beside it. Each file
    appears whole or not at all. Raises RunError where the run cannot be written.
    """
    drawn = draw_all(run)
    pictures = [render.svg(figure.figure) for figure in drawn]
    for figure, picture in zip(drawn, pictures, strict=True):
        write_bytes(run.path / "figures" / f"{figure.name}.svg", picture.encode())
        write_bytes(run.path / "figures" / f"{figure.name}.png", render.png(figure.figure))
    sources = Sources(ROOM - sum(map(len, pictures)))
    page = page_html(run, drawn, pictures, sources).encode()
    for name, content in sources.files.items():
        write_bytes(run.path / name, content)
    write_bytes(run.path / "report.html", page)
    return run.path / "report.html"


def page_html(
    run: SavedRun,
    drawn: Sequence[Drawn],
    pictures: Sequence[str],
    sources: Callable[[Image], str] | None = None,
) -> str:
    """Return the page; `pictures` are the SVG documents of `drawn`, in the same order.

    `sources` gives each of the page's other pictures its address.
    """
    script, sheet = _source("report.js"), _source("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    figures = [
        (figure, Markup(render.inline_svg(picture, figure.name, figure.alt)))
        for figure, picture in zip(drawn, pictures, strict=True)
    ]
    environment = Environment(
        autoescape=True,
        finalize=words.visible,
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["source"] = sources or Sources()
    report = report_of(run)
    return environment.get_template(report.template).render(
        workflow=run.meta.get("workflow") or "run",
        status=run.meta.get("status") or "unknown",
        page=report.content(run),
        verdict=report.verdict(run),
        figures=figures,
        failures=dict(run.meta.get("failures") or {}),
        notices=_notices(run),
        setups=_setups(run.meta),
        command=run.meta.get("command") or "",
        name=shlex.quote(run.path.name),
        sheet=Markup(sheet),
        script=Markup(script),
        digest=digest,
    )


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _section(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(meta.get(name) or {})


def _notices(run: SavedRun) -> list[str]:
    notices = [str(notice) for notice in run.meta.get("notices") or []]
    broken = int((~np.isfinite(run.rows["value"].astype(float))).sum())
    if broken:
        notices.append(
            f"{broken} of {len(run.rows)} values are not finite (a diverged loss, a mean over no "
            "unit); figures, words and tables leave them out."
        )
    return notices


def _setups(meta: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The tables of names and values that let someone else repeat the run."""
    plugins = _section(meta, "plugins")
    used: list[tuple[str, str]] = []
    for kind, records in plugins.items():
        for record in records if isinstance(records, list) else [records]:
            options = ", ".join(f"{n}={v}" for n, v in tables.pairs(record.get("options") or {}))
            source = f"{record.get('distribution', 'unknown')}:{record.get('name', '')}"
            label = f"{kind.removesuffix('s')} {record.get('label') or record.get('name')}"
            used.append((label, f"{source}{' with ' if options else ''}{options}"))
    found = [
        ("Configuration", tables.pairs(_section(meta, "config"))),
        ("Plugins", used),
        ("Data", tables.pairs(_section(meta, "data"))),
        (
            "Environment",
            tables.pairs({"polykit": meta.get("polykit"), **_section(meta, "environment")}),
        ),
    ]
    return [(title, table) for title, table in found if table]
