"""The effective mask against an explicit search through the graph of single activations."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import ModelError, UsageError
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.effective import effective_mask
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.types import Mask, UnitRef

# --- the slow and obvious way -------------------------------------------------------------------

Weight = tuple[str, tuple[int, ...]]
Grid = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Graph:
    """One node for each activation; an edge knows the weight it depends on."""

    nodes: int = 0
    edges: list[tuple[int, int, Weight | None]] = field(default_factory=list)

    def grid(self, shape: tuple[int, ...]) -> Grid:
        first = self.nodes
        self.nodes += int(np.prod(shape))
        return np.arange(first, self.nodes).reshape(shape)

    def join(self, source: Any, sink: Any, weight: Weight | None = None) -> None:
        self.edges.append((int(source), int(sink), weight))

    def effective(self, mask: Mask, inputs: Grid, goal: Grid) -> dict[str, Tensor]:
        keep = {name: part.numpy() for name, part in mask.items()}
        open_edges = [e for e in self.edges if e[2] is None or keep[e[2][0]][e[2][1]]]
        reached = self._search(inputs, [(a, b) for a, b, _ in open_edges])
        wanted = self._search(goal, [(b, a) for a, b, _ in open_edges])
        alive = {name: np.zeros_like(part) for name, part in keep.items()}
        for a, b, weight in open_edges:
            if weight is not None and a in reached and b in wanted:
                alive[weight[0]][weight[1]] = True
        return {name: torch.from_numpy(part) for name, part in alive.items()}

    def _search(self, start: Grid, edges: list[tuple[int, int]]) -> set[int]:
        following: dict[int, list[int]] = {}
        for a, b in edges:
            following.setdefault(a, []).append(b)
        found = set(start.flatten().tolist())
        fresh = list(found)
        while fresh:
            fresh = [b for a in fresh for b in following.get(a, ()) if b not in found]
            fresh = list(dict.fromkeys(fresh))
            found.update(fresh)
        return found


def window(
    size: int, out: int, kernel: int, stride: int, padding: int
) -> Iterator[tuple[int, int, int]]:
    """Which places of an axis a sliding window sees: (output, place in the window, input)."""
    for place, tap in itertools.product(range(out), range(kernel)):
        seen = place * stride - padding + tap
        if 0 <= seen < size:
            yield place, tap, seen


def connect(graph: Graph, module: nn.Module, name: str, source: Grid, sink: Grid) -> None:
    if isinstance(module, nn.Conv2d):
        connect_conv(graph, module, f"{name}.weight", source, sink)
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveMaxPool2d):
        connect_pool(graph, module, source, sink)
    elif isinstance(module, nn.Linear):
        for place in itertools.product(*map(range, source.shape[:-1])):
            for o, i in itertools.product(range(sink.shape[-1]), range(source.shape[-1])):
                graph.join(source[(*place, i)], sink[(*place, o)], (f"{name}.weight", (o, i)))
    else:
        for a, b in zip(source.flatten(), sink.flatten(), strict=True):
            graph.join(a, b)


def connect_pool(graph: Graph, pool: Any, source: Grid, sink: Grid) -> None:
    for channel, out in zip(source, sink, strict=True):
        if isinstance(pool, nn.AdaptiveMaxPool2d):  # to a single place
            for place in channel.flatten():
                graph.join(place, out[0, 0])
        else:
            settings = (pool.kernel_size, pool.stride, pool.padding)
            for y, _, r in window(channel.shape[0], out.shape[0], *settings):
                for x, _, c in window(channel.shape[1], out.shape[1], *settings):
                    graph.join(channel[r, c], out[y, x])


def connect_conv(graph: Graph, conv: nn.Conv2d, weight: str, source: Grid, sink: Grid) -> None:
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    inputs, outputs = source.shape[0] // conv.groups, sink.shape[0] // conv.groups
    for o, i in itertools.product(range(len(sink)), range(inputs)):
        channel = source[o // outputs * inputs + i]
        for y, ky, r in window(source.shape[1], sink.shape[1], kernel, stride, padding):
            for x, kx, c in window(source.shape[2], sink.shape[2], kernel, stride, padding):
                graph.join(channel[r, c], sink[o, y, x], (weight, (o, i, ky, kx)))


# --- random networks ----------------------------------------------------------------------------


class Wired(nn.Module):
    """Steps that read one earlier value through a layer, or join two by a sum or side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.wires: list[tuple[str, tuple[int, ...]]] = []

    def add(self, layer: nn.Module, *sources: int, kind: str = "layer") -> None:
        self.layers.append(layer)
        self.wires.append((kind, sources))

    def values(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for layer, (kind, sources) in zip(self.layers, self.wires, strict=True):
            read = [found[source] for source in sources]
            if kind == "layer":
                found.append(layer(read[0]))
            else:
                found.append(read[0] + read[1] if kind == "add" else torch.cat(read, dim=1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)[-1]

    def graph(self, x: Tensor) -> tuple[Graph, list[Grid]]:
        graph = Graph()
        shapes = [tuple(value.shape[1:]) for value in self.values(x)]
        grids = [graph.grid(shapes[0])]
        for index, (kind, sources) in enumerate(self.wires):
            sink = graph.grid(shapes[index + 1])
            parts = [sink] * 2 if kind == "add" else np.split(sink, [len(grids[sources[0]])])
            if kind == "layer":
                parts = [sink]
            for source, part in zip(sources, parts, strict=True):
                module = self.layers[index] if kind == "layer" else nn.Identity()
                connect(graph, module, f"layers.{index}", grids[source], part)
            grids.append(sink)
        return graph, grids


def random_mlp(choose: random.Random) -> tuple[Wired, Tensor]:
    model, widths = Wired(), [choose.randint(2, 6) for _ in range(choose.randint(2, 5))]
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        model.add(nn.Linear(a, b), 2 * index)
        model.add(choose.choice([nn.ReLU(), nn.Tanh(), nn.ReLU(inplace=True)]), 2 * index + 1)
    return model.eval(), torch.rand(3, widths[0])


def random_convnet(choose: random.Random) -> tuple[Wired, Tensor]:
    """Convolutions with stride, padding and groups, pools, skips and concatenations."""
    model, x = Wired(), torch.rand(2, choose.randint(1, 3), 5, choose.randint(4, 6))
    for _ in range(choose.randint(2, 6)):
        shapes = [value.shape[1:] for value in model.values(x)]
        last, (channels, *size) = len(shapes) - 1, shapes[-1]
        same = [index for index, shape in enumerate(shapes[:-1]) if shape == shapes[-1]]
        near = [index for index, shape in enumerate(shapes[:-1]) if shape[1:] == shapes[-1][1:]]
        kind = choose.choice(["conv", "conv", "conv", "pointwise", "pool", "add", "cat"])
        if kind == "add" and same:
            model.add(nn.Identity(), choose.choice(same), last, kind="add")
        elif kind == "cat" and near and channels < 6:
            model.add(nn.Identity(), choose.choice(near), last, kind="cat")
        elif kind == "pool" and min(size) >= 3:
            kernel, stride = choose.randint(2, 3), choose.randint(1, 2)
            pool = choose.choice([nn.MaxPool2d, nn.MaxPool2d, nn.AvgPool2d])
            ceil = choose.random() < 0.5
            model.add(pool(kernel, stride, choose.randint(0, 1), ceil_mode=ceil), last)
        elif kind == "pointwise":
            model.add(choose.choice([nn.BatchNorm2d(channels), nn.ReLU(True), nn.GELU()]), last)
        else:
            kernel = choose.randint(1, min(3, *size))
            groups = choose.choice([1, channels])
            out = groups * choose.randint(1, 2) if groups < 3 else groups
            options = {"stride": choose.randint(1, 2), "padding": choose.randint(0, kernel // 2)}
            model.add(nn.Conv2d(channels, out, kernel, groups=groups, **options), last)  # type: ignore[arg-type]
    if choose.random() < 0.5:
        model.add(nn.AdaptiveMaxPool2d(1), len(model.layers))
    model.add(nn.Flatten(), len(model.layers))
    model.eval()
    width = model.values(x)[-1].shape[1]
    model.add(nn.Linear(width, 3), len(model.layers))
    return model.eval(), x


def random_mask(model: nn.Module, x: Tensor, choose: random.Random) -> Mask:
    shapes = candidates(model, trace(model, x)).shapes
    density = choose.choice([0.2, 0.4, 0.7])
    keep = {name: torch.rand(shape) < density for name, shape in shapes.items()}
    for part in keep.values():
        if len(part) > 1 and choose.random() < 0.3:
            part[choose.randrange(len(part))] = False
    return Mask(keep)


NETWORKS = {"mlp": random_mlp, "convnet": random_convnet}


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_equals_a_search_through_the_graph(kind: str) -> None:
    smaller = joined = 0
    for seed in range(40):
        choose = random.Random(seed)
        with seeded(seed, "effective"):
            model, x = NETWORKS[kind](choose)
            mask = random_mask(model, x, choose)
        graph, grids = model.graph(x)
        with unchanged(model):
            found = effective_mask(model, mask, x)
        assert found == Mask(graph.effective(mask, grids[0], grids[-1])), f"seed {seed}"

        layers = [int(name.split(".")[1]) for name in mask]
        layer = choose.choice(layers)
        goal = grids[layer + 1]
        unit = choose.randrange(len(goal))
        found = effective_mask(model, mask, x, UnitRef(f"layers.{layer}", unit))
        expected = Mask(graph.effective(mask, grids[0], goal[unit]))
        assert found == expected, f"seed {seed}, target {layer}:{unit}"
        smaller += 0 < found.kept < mask.kept
        joined += any(kind != "layer" for kind, _ in model.wires[:layer])
    assert smaller > 10
    assert kind == "mlp" or joined > 5


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_not_effective_changes_no_output_of_a_network_without_biases(kind: str) -> None:
    for seed in range(20):
        choose = random.Random(seed)
        with seeded(seed, "effective"):
            model, x = NETWORKS[kind](choose)
            mask = random_mask(model, x, choose)
        for name, value in model.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.zero_()
        effective = effective_mask(model, mask, x)
        with masked(model, mask):
            before = model(x)
        with masked(model, effective):
            assert torch.equal(model(x), before), f"seed {seed}"


def test_a_linear_layer_over_tokens_is_followed_token_by_token() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mixed, self.outer = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.mixed(self.inner(x).transpose(1, 2)).transpose(1, 2)
            return self.outer(h)  # type: ignore[no-any-return]

    with seeded(0, "effective"):
        model, x = Tokens().eval(), torch.rand(1, 2, 3)
        for seed in range(10):
            mask = random_mask(model, x, random.Random(seed))
            graph = Graph()
            shapes = [(2, 3), (2, 4), (4, 2), (4, 2), (2, 4), (2, 2)]
            grids = [graph.grid(shape) for shape in shapes]
            connect(graph, model.inner, "inner", grids[0], grids[1])
            connect(graph, nn.Identity(), "", grids[1].T, grids[2])
            connect(graph, model.mixed, "mixed", grids[2], grids[3])
            connect(graph, nn.Identity(), "", grids[3].T, grids[4])
            connect(graph, model.outer, "outer", grids[4], grids[5])
            assert effective_mask(model, mask, x) == Mask(graph.effective(mask, grids[0], grids[5]))
            target = grids[3][:, 1]
            expected = Mask(graph.effective(mask, grids[0], target))
            assert effective_mask(model, mask, x, UnitRef("mixed", 1)) == expected


# --- single wirings -----------------------------------------------------------------------------


class Around(nn.Module):
    """A function between two linear layers of four units."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(2, 4), between, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]


def alive_units(model: nn.Module, gone: int) -> list[bool]:
    """Which units of `first` are effective when unit `gone` of it keeps nothing."""
    rows = torch.ones(4, 2, dtype=torch.bool)
    rows[gone] = False
    shape = model.get_parameter("last.weight").shape
    mask = Mask({"first.weight": rows, "last.weight": torch.ones(shape, dtype=torch.bool)})
    found = effective_mask(model.eval(), mask, torch.rand(1, 2))
    columns = found["last.weight"].all(0)
    assert torch.equal(columns, found["last.weight"].any(0))
    return columns.tolist()  # type: ignore[no-any-return]


APART = [True, False, True, True]
"""Units go on by themselves: of four, the second is gone."""


@pytest.mark.parametrize(
    ("between", "columns"),
    [
        (torch.sigmoid, APART),
        (lambda h: F.leaky_relu(input=h), APART),
        (F.relu_, APART),
        (nn.LayerNorm(4), APART),
        (nn.BatchNorm1d(4), APART),
        (nn.Dropout(), APART),
        (torch.neg, APART),
        (lambda h: h - h.detach() * 0, APART),
        (lambda h: torch.maximum(h, h), APART),
        (lambda h: h[:, :2] - h[:, 2:], [True, True]),
        (lambda h: torch.max(h[:, :2], h[:, 2:]), [True, True]),
        (lambda h: h.unflatten(1, (2, 2)).amax(2), [True, True]),
        (lambda h: h.unflatten(1, (2, 2)).max(2).values, [True, True]),
        (lambda h: h.unflatten(1, (2, 2)).min(1, keepdim=True)[0].flatten(1), [True, True]),
        (lambda h: h.max().expand(1, 3), [True] * 3),
        (F.glu, [True, False]),
        (lambda h: F.glu(h.roll(2, 1)), [True, True]),
    ],
)
def test_functions_between_layers(between: Any, columns: list[bool]) -> None:
    assert alive_units(Around(between, len(columns)), gone=1) == columns


SCALES = torch.tensor([1.0, 2, 4, 3])
"""Makes some of four units larger, so that a real maximum would choose among them."""


@pytest.mark.parametrize(
    "chooses",
    [
        lambda h: torch.maximum(h[:, :2], h[:, 2:]),
        lambda h: torch.minimum(h[:, :2], h[:, 2:]),
        lambda h: torch.max(h[:, :2], h[:, 2:]),
        lambda h: h.unflatten(1, (2, 2)).amax(1),
        lambda h: h.unflatten(1, (2, 2)).amin(dim=1, keepdim=True).flatten(1),
        lambda h: h.unflatten(1, (2, 2)).max(1).values,
        lambda h: torch.min(h.unflatten(1, (2, 2)), dim=1)[0],
        lambda h: h.max().expand(1, 2),
        lambda h: h.amax().expand(1, 2),
        lambda h: F.max_pool1d(h.unsqueeze(1), 2).flatten(1),
        lambda h: F.max_pool2d(h.unflatten(1, (1, 2, 2)), 2).flatten(1).expand(1, 2),
        lambda h: F.max_pool3d(h.unflatten(1, (1, 1, 2, 2)), (1, 2, 1)).flatten(1),
        lambda h: F.adaptive_max_pool1d(h.unsqueeze(1), 2).flatten(1),
        lambda h: F.adaptive_max_pool2d(h.unflatten(1, (1, 2, 2)), (2, 1)).flatten(1),
        lambda h: h[:, 2:] - h[:, :2],
        lambda h: 5 - h[:, 2:] - h[:, :2],
    ],
)
def test_what_a_maximum_does_not_choose_counts_as_well(chooses: Any) -> None:
    model = Around(lambda h: chooses(h * SCALES), 2).eval()
    full = candidates(model, trace(model, torch.rand(1, 2))).full()
    assert effective_mask(model, full, torch.rand(1, 2)) == full


def test_the_sign_of_a_constant_does_not_matter() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.tensor([-30.0, 0.5]))
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer((x - 0.1307) / 0.3081 + self.shift)  # type: ignore[no-any-return]

    model, x = Shifted().eval(), torch.rand(1, 2)
    full = candidates(model, trace(model, x)).full()
    assert effective_mask(model, full, x) == full


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1), nn.Sigmoid()])
def test_an_output_nonlinearity_hides_nothing(end: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), end).eval()
    full = candidates(model, trace(model, torch.rand(1, 2))).full()
    assert effective_mask(model, full, torch.rand(1, 2)) == full


class Attention(nn.Module):
    """Two layers of tokens with self-attention, by hand or by torch, and its projections."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.how == "by hand":
            mixed = torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v
        elif self.how == "function":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = self.heads(q, k, v, need_weights=False)[0]
        return self.out(mixed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["by hand", "function", "module"])
def test_attention_needs_values_and_lets_queries_and_keys_count(how: str) -> None:
    model, x = Attention(how).eval(), torch.rand(1, 3, 4)
    full = candidates(model, trace(model, x)).full()
    assert set(full) == {f"{name}.weight" for name in ("query", "key", "value", "out")}
    assert effective_mask(model, full, x) == full
    none = torch.zeros(4, 4, dtype=torch.bool)
    without_key = effective_mask(model, Mask({**full, "key.weight": none}), x)
    assert without_key.layer_density() == {
        "query.weight": 0,  # equal keys: the weights are uniform whatever the query
        "key.weight": 0,
        "value.weight": 1,
        "out.weight": 1,
    }
    assert effective_mask(model, Mask({**full, "value.weight": none}), x).kept == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.VisionTransformer(16, 8, 8, 2, 8, 16),
        lambda: torchvision.models.SwinTransformer([2, 2], 8, [2], [2], [2, 2]),
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
            torchvision.ops.SqueezeExcitation(8, 4),
            nn.ChannelShuffle(4),
            torchvision.ops.MLP(8, [8, 4]),
        ),
        lambda: torchvision.models.densenet.DenseNet(2, (2, 2), 4),
    ],
    ids=["vit", "swin", "gates", "densenet"],
)
def test_everything_counts_in_a_whole_vision_model(build: Callable[[], nn.Module]) -> None:
    with seeded(0, "effective"):
        model = build().eval()
    x = torch.zeros(1, 3, 16, 16)
    full = candidates(model, trace(model, x)).full()
    assert len(full) > 4
    with unchanged(model):
        assert effective_mask(model, full, x) == full


def test_a_shared_weight_is_effective_where_any_of_its_uses_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.a(x)))  # type: ignore[no-any-return]

    model, x = Twice().eval(), torch.rand(1, 2)
    cut = candidates(model, trace(model, x), "unit")
    mask = Mask(
        {**cut.full(), "out.weight": torch.tensor([[True, False]])},
    )
    assert effective_mask(model, mask, x) == mask  # a's second unit serves b's first
    diagonal = Mask({**mask, "a.weight": torch.eye(2).bool()})
    found = effective_mask(model, diagonal, x)
    assert found["a.weight"].tolist() == [[True, False], [False, False]]


def test_the_bias_of_a_unit_is_effective_with_its_unit() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.rand(1, 2)
    cut = candidates(model.eval(), trace(model, x), "unit", target=UnitRef("2", 1))
    keep = {"0.weight": torch.tensor([True, False, True]), "2.weight": torch.tensor([True] * 3)}
    mask = cut.mask(keep)
    found = effective_mask(model, mask, x, UnitRef("2", 1))
    assert found["0.bias"].tolist() == [True, False, True]
    assert found["2.bias"].tolist() == [False, True, False]
    assert found["2.weight"].tolist() == [[False] * 3, [True, False, True], [False] * 3]
    assert found.eligible("2.bias").tolist() == mask.eligible("2.bias").tolist()
    assert (found.kept, found.total) == (3 + 3 + 2 + 1, 9 + 3 + 1)


def test_paths_end_at_the_first_call_of_a_layer_that_is_called_twice() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))  # type: ignore[no-any-return]

    model, x = Again().eval(), torch.rand(1, 2)
    full = Mask({"layer.weight": torch.ones(2, 2, dtype=torch.bool)})
    found = effective_mask(model, full, x, UnitRef("layer", 0))
    assert found["layer.weight"].tolist() == [[True, True], [False, False]]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hides",
    [
        nn.MaxPool1d(2, 1, dilation=2),
        lambda h: F.max_pool1d(h, 2, return_indices=True)[0],
        lambda h: F.adaptive_max_pool1d(h, 4, return_indices=True)[0],
        lambda h: -2 * h,
        lambda h: h / (h - h),
    ],
)
def test_a_wiring_that_cannot_be_followed_is_refused(hides: Any) -> None:
    model = Around(lambda h: hides(h.unsqueeze(1)).squeeze(1)).eval()
    mask = Mask({"first.weight": torch.tensor([[True, True], *[[False, False]] * 3])})
    x = torch.rand(1, 2)
    with unchanged(model), pytest.raises(ModelError, match="paths through Around cannot be"):
        effective_mask(model, mask, x)


def test_token_indices_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).eval()
    x = torch.zeros(1, 4, dtype=torch.long)
    full = candidates(model, trace(model, x)).full()
    with pytest.raises(ModelError, match="cannot be followed"):
        effective_mask(model, full, x)


@pytest.mark.parametrize("target", [UnitRef("1", 0), UnitRef("9", 0), UnitRef("0", 3)])
def test_a_target_that_is_no_unit_of_a_layer_is_refused(target: UnitRef) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    x = torch.rand(1, 2)
    full = candidates(model, trace(model, x)).full()
    with unchanged(model), pytest.raises(UsageError, match=r"target|units 0 to 2"):
        effective_mask(model, full, x, target)


def test_a_mask_of_another_network_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    with pytest.raises(UsageError, match=r"'1\.weight' that does not fit"):
        effective_mask(model, Mask({"1.weight": torch.tensor([True])}), torch.rand(1, 2))
