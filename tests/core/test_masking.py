"""From a network to candidates, and from a mask back to a network or a file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from polykit.errors import ModelError, RunError, UsageError
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import (
    apply_mask,
    candidates,
    dead_layers,
    load_mask,
    mask_bytes,
    masked,
    masked_parameters,
)
from polykit.runtime.seeds import seeded
from polykit.testing import unchanged
from polykit.types import Granularity, Mask, Trace, UnitRef

X = torch.zeros(1, 1, 6, 6)


def convnet() -> nn.Module:
    with seeded(0, "masking"):
        convolutions = [nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()]
        hidden = [nn.Flatten(), nn.Linear(24, 5), nn.ReLU()]
        return nn.Sequential(*convolutions, *hidden, nn.Linear(5, 3)).eval()


def some_mask(model: nn.Module, density: float = 0.5) -> Mask:
    cut = candidates(model, trace(model, X))
    random = torch.Generator().manual_seed(0)
    return cut.mask({n: torch.rand(s, generator=random) < density for n, s in cut.shapes.items()})


# --- candidates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["weight", "kernel"])
def test_weights_of_all_conv_and_linear_layers_may_go_and_biases_stay(
    granularity: Granularity,
) -> None:
    model = convnet()
    cut = candidates(model, trace(model, X), granularity, "layer")
    assert dict(cut.shapes) == {
        "0.weight": (4, 1, 3, 3),
        "2.weight": (6, 4, 3, 3),
        "5.weight": (5, 24),
        "7.weight": (3, 5),
    }
    assert (cut.granularity, cut.competition) == (granularity, "layer")
    assert not cut.biases
    assert not cut.eligible


def test_whole_units_take_their_bias_along_and_the_output_layer_keeps_its_units() -> None:
    model = convnet()
    cut = candidates(model, trace(model, X), "unit")
    assert list(cut.shapes) == ["0.weight", "2.weight", "5.weight"]
    assert cut.biases == {"2.weight": "2.bias", "5.weight": "5.bias"}
    assert [cut.element_size(name) for name in cut.shapes] == [9, 37, 25]


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_below_a_target_unit_everything_may_go_and_of_its_layer_only_its_row(
    granularity: Granularity,
) -> None:
    model = convnet()
    cut = candidates(model, trace(model, X), granularity, target=UnitRef("2", 4))
    assert list(cut.shapes) == ["0.weight", "2.weight"]
    assert bool(cut.eligible_elements("0.weight").all())
    part = cut.eligible_elements("2.weight")
    assert bool(part[4].all())
    assert int(part.sum()) == part[4].numel()


def test_alexnet_has_184768_kernels_below_a_unit_of_its_last_conv_layer() -> None:
    with seeded(0, "masking"):
        model = torchvision.models.alexnet(weights=None).eval()
    path = trace(model, torch.zeros(1, 3, 224, 224))
    cut = candidates(model, path, "kernel", target=UnitRef("features.10", 9))
    counts = {name: int(cut.eligible_elements(name).sum()) for name in cut.shapes}
    assert list(counts.values()) == [192, 12_288, 73_728, 98_304, 256]
    assert sum(counts.values()) == 184_768


def test_a_target_in_the_output_layer_has_a_row_of_units() -> None:
    model = convnet()
    cut = candidates(model, trace(model, X), "unit", target=UnitRef("7", 1))
    assert cut.eligible_elements("7.weight").tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["*"], ["0.weight", "2.weight", "5.weight", "7.weight"]),
        (["[02]"], ["0.weight", "2.weight"]),
        (["7", "0"], ["0.weight", "7.weight"]),
        (["1", "*"], None),
        (["nosuch"], None),
    ],
)
def test_globs_choose_among_conv_and_linear_layers(
    globs: list[str], names: list[str] | None
) -> None:
    model = convnet()
    if names is None:
        with pytest.raises(UsageError, match=repr(globs[0])):
            candidates(model, trace(model, X), layers=iter(globs))
    else:
        assert list(candidates(model, trace(model, X), layers=iter(globs)).shapes) == names


class Sharing(nn.Module):
    """Two layers with one weight and biases of their own; the first is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = (nn.Linear(3, 3) for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.first(x).relu()
        return self.out(self.second(x).relu())  # type: ignore[no-any-return]


def sharing() -> tuple[nn.Module, Trace]:
    with seeded(0, "masking"):
        model = Sharing().eval()
    return model, trace(model, torch.zeros(1, 3))


def test_a_shared_weight_is_one_candidate() -> None:
    model, path = sharing()
    assert list(candidates(model, path).shapes) == ["first.weight", "out.weight"]
    assert candidates(model, path).full().total == 18


def test_a_weight_that_is_also_used_below_the_target_is_wholly_eligible() -> None:
    model, path = sharing()
    cut = candidates(model, path, target=UnitRef("second", 0))
    assert bool(cut.eligible_elements("first.weight").all())
    cut = candidates(model, path, target=UnitRef("first", 0))
    assert int(cut.eligible_elements("first.weight").sum()) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = convnet()
    path = trace(model, X)
    with torch.no_grad():
        model.get_parameter("2.weight")[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match="layer '2' hold NaN or infinity"):
        candidates(model, path)
    assert candidates(model, path, layers=["0"]).shapes


def test_a_computed_weight_is_refused_with_the_remedy() -> None:
    model = convnet()
    nn.utils.parametrizations.weight_norm(model.get_submodule("5"))
    with pytest.raises(ModelError, match=r"layer '5' computes its weight .* with .*remove_"):
        candidates(model, trace(model, X))


def test_nothing_to_prune_is_an_error_with_a_remedy() -> None:
    only = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(UsageError, match=r"nothing to prune.*take granularity weight"):
        candidates(only, trace(only, X), "unit")
    none = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(UsageError, match="nothing to prune"):
        candidates(none, trace(none, X))


@pytest.mark.parametrize(
    ("target", "globs", "said"),
    [
        (UnitRef("2", 6), None, "layer '2' has units 0 to 5: no 2:6"),
        (UnitRef("3", 0), None, "no conv or linear layer '3'"),
        (UnitRef("gone", 0), None, "no conv or linear layer 'gone'"),
        (UnitRef("2", 0), ["5"], "nothing in scope lies before the target 2:0"),
    ],
)
def test_a_target_that_cannot_be_is_refused(
    target: UnitRef, globs: list[str] | None, said: str
) -> None:
    model = convnet()
    with pytest.raises(UsageError, match=said):
        candidates(model, trace(model, X), layers=globs, target=target)


# --- masks on networks --------------------------------------------------------------------------


def test_masked_zeroes_inside_and_restores_behind() -> None:
    model = convnet()
    mask = some_mask(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with unchanged(model):
        with masked(model, mask) as inside:
            assert inside is model
            own = dict(model.named_parameters())
            for name, keep in mask.items():
                assert torch.equal(own[name], before[name] * keep)
            assert torch.equal(own["7.bias"], before["7.bias"])
        with pytest.raises(KeyError, match="lost"), masked(model, mask):
            raise KeyError("lost")
        with masked(model, mask), masked(model, some_mask(model, 0.2)):
            pass


def test_masked_parameters_are_new_tensors_and_act_like_the_masked_model() -> None:
    model = convnet()
    mask = some_mask(model)
    x = torch.rand(2, 1, 6, 6)
    with unchanged(model):
        params = masked_parameters(model, mask)
        with masked(model, mask):
            expected = model(x)
        assert torch.equal(torch.func.functional_call(model, params, (x,)), expected)
        for value in params.values():
            assert not value.requires_grad
            value.zero_()


def test_apply_mask_zeroes_for_good_in_the_same_parameters() -> None:
    model = convnet()
    mask = some_mask(model)
    own = dict(model.named_parameters())
    before = {name: value.detach().clone() for name, value in own.items()}
    apply_mask(model, mask)
    assert all(value is own[name] for name, value in model.named_parameters())
    for name, value in own.items():
        keep = mask[name] if name in mask else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[keep], before[name][keep])
        assert not bool(value[~keep].any())
        assert not bool(torch.signbit(value[~keep]).any())


@pytest.mark.parametrize("name", ["nosuch.weight", "0.weight"])
def test_a_mask_of_another_network_is_refused_before_anything_changes(name: str) -> None:
    model = convnet()
    mask = Mask({"2.weight": torch.zeros(6, 4, 3, 3, dtype=torch.bool), name: torch.tensor([True])})
    with unchanged(model):
        with pytest.raises(UsageError, match=f"'{name}' that does not fit"):
            apply_mask(model, mask)
        with pytest.raises(UsageError, match=f"'{name}' that does not fit"), masked(model, mask):
            pass
        with pytest.raises(UsageError, match=f"'{name}' that does not fit"):
            masked_parameters(model, mask)


def test_dead_layers_are_those_that_keep_no_weight() -> None:
    model, path = convnet(), trace(convnet(), X)
    full = candidates(model, path).full()
    assert dead_layers(model, path, full) == ()
    gone = {"2.weight": torch.zeros(6, 4, 3, 3), "7.weight": torch.zeros(3, 5)}
    assert dead_layers(model, path, Mask({n: t.bool() for n, t in gone.items()})) == ("2", "7")
    almost = gone["7.weight"].bool()
    almost[2, 4] = True
    assert dead_layers(model, path, Mask({"7.weight": almost})) == ()


def test_layers_that_share_a_dead_weight_are_both_dead() -> None:
    model, path = sharing()
    mask = Mask({"first.weight": torch.zeros(3, 3, dtype=torch.bool)})
    assert dead_layers(model, path, mask) == ("first", "second")


# --- masks as files -----------------------------------------------------------------------------


def test_a_mask_survives_its_file(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12))).eval()
    path = trace(model, torch.zeros(1, 3))
    cut = candidates(model, path, "unit", target=UnitRef("10", 1))
    mask = cut.mask({name: torch.rand(3) < 0.5 for name in cut.shapes})
    file = tmp_path / "mask.safetensors"
    file.write_bytes(mask_bytes(mask, {"cell": "a"}))
    assert load_mask(file) == mask
    assert mask_bytes(load_mask(file), {"cell": "a"}) == file.read_bytes()


def test_a_file_that_is_no_mask_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    with pytest.raises(RunError, match=r"mask\.safetensors is no mask"):
        load_mask(file)
    for content in (b"", b"not safetensors at all"):
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"mask\.safetensors is no mask"):
            load_mask(file)
    file.write_bytes(mask_bytes(Mask({"w": torch.ones(9, dtype=torch.bool)}))[:-1])
    with pytest.raises(RunError, match=r"mask\.safetensors is no mask"):
        load_mask(file)
    for tensors in (
        {"w": torch.ones(2)},
        {"keep/w": torch.ones(2)},
        {"eligible/w": torch.ones(2, dtype=torch.bool)},
    ):
        save_file(tensors, file)
        with pytest.raises(RunError, match=r"mask\.safetensors is no mask"):
            load_mask(file)
