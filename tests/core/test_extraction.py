"""The small network gives the masked one's numbers, and comes back from its file as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import polykit
from polykit.errors import ModelError, PolykitError, RunError, UsageError
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.extraction import extract
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.pruning.subnetworks import Shift, load_subnetwork, subnetwork_bytes
from polykit.runtime.seeds import generator, seeded
from polykit.testing import unchanged
from polykit.types import Mask, Site, UnitRef


def mlp() -> nn.Sequential:
    layers = [nn.Linear(12, 9), nn.ReLU(inplace=True), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)]
    return nn.Sequential(nn.Flatten(), *layers)


def padded() -> nn.Sequential:
    """Padding everywhere, so that constant units add something else at the edge."""
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    second = [nn.Conv2d(6, 5, 3, padding=2, stride=2), nn.GELU(), nn.AvgPool2d(2, padding=1)]
    return nn.Sequential(*first, *second, nn.Conv2d(5, 4, 2), nn.ReLU(), nn.Conv2d(4, 3, 1))


def normed() -> nn.Sequential:
    """Batch normalisation, groups, no bias, a plain head behind a pooled map."""
    first = [nn.Conv2d(3, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2)]
    second = [nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8, affine=False), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 6), nn.ReLU()]
    return nn.Sequential(*first, *second, *head, nn.BatchNorm1d(6), nn.Linear(6, 4))


class Functional(nn.Module):
    """The map is flattened by a function, as torchvision's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Linear(54, 8), nn.Softplus(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]


def signal() -> nn.Sequential:
    layers = [nn.Conv1d(3, 5, 3, padding=1), nn.ELU(), nn.MaxPool1d(2), nn.Conv1d(5, 4, 2)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv1d(4, 3, 3, dilation=2, padding=2))


NETWORKS = {
    "mlp": (mlp, (3, 2, 2), "5:1"),
    "padded": (padded, (3, 9, 9), "6:2"),
    "normed": (normed, (3, 8, 8), "9:3"),
    "functional": (Functional, (3, 6, 6), "head.2:0"),
    "signal": (signal, (3, 10), "5:2"),
}


def network(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, UnitRef]:
    make, shape, unit = NETWORKS[name]
    with seeded(seed, "extraction", name):
        model = make().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return model, torch.randn(5, *shape, dtype=torch.double), UnitRef.parse(unit)


def random_mask(
    model: nn.Module, x: Tensor, target: UnitRef | None, density: float, dead: float, seed: int
) -> Mask:
    """Keep single weights at random, and nothing at all of a share of the units."""
    cut, random = candidates(model, trace(model, x), target=target), generator(seed, "mask")
    keep = {}
    for name, shape in cut.shapes.items():
        weights = torch.rand(shape, generator=random) < density
        units = torch.rand(shape[0], generator=random) < dead
        keep[name] = weights & ~units.view(-1, *(1,) * (len(shape) - 1))
    return cut.mask(keep)


def expected(model: nn.Module, mask: Mask, x: Tensor, target: UnitRef | None) -> Tensor:
    path = trace(model, x)
    site = Site(path.output_layer if target is None else target.layer)
    with masked(model, mask), torch.no_grad():
        values = capture(model, x, [site], path).values[site]
    return values if target is None else values[:, target.index : target.index + 1]


@pytest.mark.parametrize("name", NETWORKS)
@given(
    density=st.floats(0.15, 1),
    dead=st.sampled_from([0, 0.3, 0.6]),
    whole=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=10, deadline=None)
def test_the_small_network_gives_the_masked_one_s_numbers(
    name: str, density: float, dead: float, whole: bool, seed: int
) -> None:
    model, x, unit = network(name, seed)
    target = None if whole else unit
    mask = random_mask(model, x, target, density, dead, seed)
    wanted = expected(model, mask, x, target)
    try:
        with unchanged(model):
            small = extract(model, mask, x, target)
    except UsageError:  # nothing of the picture arrives
        other = expected(model, mask, torch.randn_like(x), target)
        assert torch.equal(other, wanted), "the target does depend on the picture"
    else:
        torch.testing.assert_close(small.model(x), wanted, rtol=0, atol=1e-12)
        other = torch.randn(3, *x.shape[1:], dtype=torch.double, generator=generator(seed))
        again = expected(model, mask, other, target)
        torch.testing.assert_close(small.model(other), again, rtol=0, atol=1e-12)
        kept = {layer: len(units) for layer, units in small.units.items()}
        made = [m for m in small.model if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
        assert list(kept.values()) == [len(layer.weight) for layer in made]
        assert small.original == sum(p.numel() for p in model.parameters())
        assert small.parameters == sum(p.numel() for p in small.model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_agrees_to_a_millionth(name: str) -> None:
    model, x, target = network(name)
    model, x = model.float(), x.float()
    mask = random_mask(model, x, target, 0.7, 0.2, 1)
    small = extract(model, mask, x, target)
    wanted = expected(model, mask, x, target)
    torch.testing.assert_close(small.model(x), wanted, rtol=1e-6, atol=1e-6)


def test_constant_units_are_folded_into_biases_and_at_padded_edges_into_maps() -> None:
    """Unit 0 of the first layer is constant, relu(1) = 1, and reaches the second by 0.5."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(1)
        model[2].weight.fill_(0.5)
        model[2].bias.fill_(0.25)
    keep = {"0.weight": torch.tensor([False, True]).view(2, 1, 1, 1)}
    x, target = torch.randn(2, 1, 5, 5), UnitRef("2", 0)
    small = extract(model, Mask(keep), x, target)
    assert small.units["0"].tolist() == [1]
    shift = small.model[-1]
    assert isinstance(shift, Shift)
    touched = F.conv2d(torch.ones(1, 1, 5, 5), torch.full((1, 1, 3, 3), 0.5), padding=1)[0]
    torch.testing.assert_close(shift.value, touched + 0.25)
    model[2].padding = (0, 0)
    plain = extract(model, Mask(keep), x, target).model
    assert not any(isinstance(layer, Shift) for layer in plain)
    assert plain[2].bias.tolist() == [0.25 + 9 * 0.5]


def test_what_does_not_lead_to_the_target_goes() -> None:
    """Two paths that share nothing: each is cut out alone, the other's weights with it."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    rows = torch.arange(6) < 2
    keep = {"2.weight": torch.stack([rows, ~rows, torch.ones(6, dtype=torch.bool)])}
    sizes = []
    for index in range(3):
        x = torch.randn(3, 4).double()
        small = extract(model, Mask(keep), x, UnitRef("2", index))
        sizes.append(small.parameters)
        assert small.density == small.parameters / small.original
    assert sizes == [2 * 5 + 3, 4 * 5 + 5, 6 * 5 + 7]


class Residual(nn.Module):
    """A sum runs beside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(x + self.one(x))  # type: ignore[no-any-return]


class Bent(Residual):
    """The nonlinearity is no module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "target", "error", "words"),
    [
        (Residual(), "two:0", ModelError, "more than its layers"),
        (Bent(), "two:0", ModelError, "more than its layers"),
        (nn.Sequential(nn.Linear(4, 3), nn.PReLU(), nn.Linear(3, 1)), "2:0", ModelError, "PReLU"),
        (nn.Sequential(nn.Linear(4, 3)), "0:3", UsageError, "units 0 to 2"),
        (nn.Sequential(nn.Linear(4, 3)), "1:0", UsageError, "no conv or linear layer '1'"),
    ],
    ids=["residual", "functional", "prelu", "index", "layer"],
)
def test_what_cannot_be_cut_is_refused(
    model: nn.Module, target: str, error: type[PolykitError], words: str
) -> None:
    x = torch.randn(3, 4, generator=generator(0))
    with unchanged(model), pytest.raises(error, match=words):
        extract(model, Mask({}), x, UnitRef.parse(target))


def test_a_mask_without_a_way_is_refused() -> None:
    model, x, target = network("padded")
    mask = candidates(model, trace(model, x), target=target).full()
    nothing = Mask({**mask, "3.weight": torch.zeros_like(mask["3.weight"])})
    with pytest.raises(UsageError, match="leaves no way from the input to 6:2"):
        extract(model, nothing, x, target)


def test_a_target_that_is_zero_on_the_pictures_can_be_cut() -> None:
    """Reached, but behind units that do not fire: nothing is compared with nothing."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    small = extract(model, Mask({}), torch.rand(4, 2), UnitRef("2", 0))
    assert not small.model(torch.rand(4, 2)).any()


def test_a_parametrised_layer_is_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 1))
    with pytest.raises(ModelError, match="cannot be cut"):
        extract(model, Mask({}), torch.randn(2, 4), UnitRef("1", 0))


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_file_gives_the_same_network_back(tmp_path: Path, name: str, whole: bool) -> None:
    model, x, unit = network(name)
    target = None if whole else unit
    small = extract(model, random_mask(model, x, target, 0.8, 0.1, 5), x, target)
    path = tmp_path / "small.safetensors"
    path.write_bytes(subnetwork_bytes(small))
    back = polykit.load_subnetwork(path)
    assert torch.equal(back.model(x), small.model(x))
    assert not back.model.training
    assert {k: v.tolist() for k, v in back.units.items()} == {
        k: v.tolist() for k, v in small.units.items()
    }
    for field in ("parameters", "original", "target", "input_shape", "notices"):
        assert getattr(back, field) == getattr(small, field)
    assert subnetwork_bytes(back) == path.read_bytes()


def damaged(path: Path, change: str) -> None:
    """Write the file of a small network with something wrong in it."""
    model, x, target = network("mlp")
    full = candidates(model, trace(model, x), target=target).full()
    path.write_bytes(subnetwork_bytes(extract(model, full, x, target)))
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["polykit.subnetwork"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "kind":
        header["layers"][2] = ["LazyLinear", {"out_features": 3}]
    elif change == "argument":
        header["layers"][1][1]["device"] = "cuda"
    elif change == "size":
        header["layers"][1][1]["out_features"] = 10**12
    elif change == "tensor":
        del tensors["model/1.weight"]
    elif change == "field":
        del header["layers"]
    elif change == "type":
        header["layers"] = 3
    elif change == "unit":
        header["target"] = "nowhere"
    save_file(tensors, path, {"polykit.subnetwork": json.dumps(header)})


@pytest.mark.parametrize("change", ["kind", "argument", "size", "tensor", "field", "type", "unit"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, change: str) -> None:
    path = tmp_path / "small.safetensors"
    damaged(path, change)
    with pytest.raises(RunError, match=r"small\.safetensors is no subnetwork"):
        load_subnetwork(path)


@pytest.mark.parametrize("content", [None, b"", b"not a file", b"{}" * 40])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "small.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="is no subnetwork"):
        load_subnetwork(path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(RunError, match="is no subnetwork"):
        load_subnetwork(path)
