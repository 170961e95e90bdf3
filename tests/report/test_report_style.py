from __future__ import annotations

import matplotlib
import pytest
from matplotlib.figure import Figure

from polykit.report.render import inline_svg, png, svg
from polykit.report.style import (
    CONTROL,
    DENSE,
    DENSE_COLOR,
    INK,
    cluster_looks,
    figure_style,
    looks,
)

CS = "#6549ea"
OKABE_ITO = {"magnitude": "#0072b2", "force": "#d55e00", "snip": "#009e73", "actgrad": "#cc79a7"}


def drawing(label: str = "x") -> Figure:
    with figure_style():
        figure = Figure(figsize=(2, 2))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK)
        axes.set_title(label)
        axes.set_xlabel("a")
    return figure


def settings():
    # Reading the backend would choose one.
    names = [name for name in matplotlib.rcParams if name != "backend"]
    return {name: matplotlib.rcParams[name] for name in names}


@pytest.mark.parametrize("company", [[], ["wanda", "zeta"], ["force:rounds=5", "random", "dense"]])
def test_built_in_pruners_keep_their_colour_in_any_company(company):
    table = looks([*OKABE_ITO, *company])
    assert {name: table[name].color for name in OKABE_ITO} == OKABE_ITO


def test_continuous_sparsification_has_one_colour_by_either_name():
    both = ("cs", "continuous-sparsification", "cs:epochs=10")
    assert {looks([name, "force", "wanda"])[name].color for name in both} == {CS}
    assert looks(["wanda"])["wanda"].color != CS


def test_clusters_keep_their_looks_and_noise_is_grey():
    table = cluster_looks([-1, 0, 1, 9])
    assert table[-1].color == DENSE_COLOR
    assert cluster_looks([1])[1] == table[1]
    assert len({look.color for look in table.values()}) == 4


def test_other_pruners_get_stable_colours_of_their_own():
    alone, together = looks(["wanda"]), looks(["wanda", "magnitude", "random"])
    assert alone["wanda"] == together["wanda"]
    assert alone["wanda"].color not in OKABE_ITO.values()
    assert looks(["b", "a"]) == looks(["a", "b"])
    assert looks(["force:rounds=5"])["force:rounds=5"].color == OKABE_ITO["force"]


def test_no_two_pruners_look_the_same_even_when_colours_run_out():
    table = looks([f"pruner-{i}" for i in range(40)])
    assert len(set(table.values())) == 40


def test_dense_is_grey_and_only_the_control_is_dashed():
    table = looks([DENSE, CONTROL, *OKABE_ITO])
    red, green, blue = (int(table[DENSE].color[i : i + 2], 16) for i in (1, 3, 5))
    assert max(red, green, blue) - min(red, green, blue) < 20
    assert [name for name, look in table.items() if look.line == "--"] == [CONTROL]
    assert table[CONTROL].color == INK


def test_svg_follows_the_page_and_is_the_same_each_time():
    first, second = svg(drawing()), svg(drawing())
    assert first == second
    body = first.partition("</style>")[2]
    assert "currentColor" in body
    assert INK not in body
    assert "prefers-color-scheme:dark" in first
    assert "<metadata" not in first
    assert png(drawing()) == png(drawing())


def test_a_users_style_neither_changes_a_figure_nor_is_changed():
    plain = svg(drawing()), png(drawing())
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.hashsalt": "mine"}):
        before = settings()
        assert (svg(drawing()), png(drawing())) == plain
        assert settings() == before


def test_a_dollar_is_a_dollar():
    with_math = svg(drawing(r"$\frac{$ 5 $"))
    assert with_math == svg(drawing(r"$\frac{$ 5 $"))
    assert svg(drawing("$x$")) != svg(drawing("x"))


def test_inline_svg_has_its_own_ids_and_a_text_alternative():
    text = inline_svg(svg(drawing()), "one", 'says "<b>" & more')
    assert text.startswith('<svg role="img" aria-label="says &quot;&lt;b&gt;&quot; &amp; more"')
    assert "http" not in text
    assert "<style" not in text
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert ids
    assert all(name.startswith("one-") for name in ids)
    targets = [part.split('"')[0] for part in text.split('href="#')[1:]]
    targets += [part.split(")")[0] for part in text.split("url(#")[1:]]
    assert targets
    assert set(targets) <= set(ids)
