"""The built-in models: perceptrons, torchvision's, and a user's own factory."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision import models

from polykit.api import Model
from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.passes.trace import trace
from polykit_builtins.models.convnet import Convnet
from polykit_builtins.models.factory import Factory
from polykit_builtins.models.mlp import Mlp
from polykit_builtins.models.torchvision_zoo import TorchvisionModel, replace_head


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def linear(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def test_mlp_has_the_widths_asked_for() -> None:
    model = Mlp(widths=(300, 100), scale=0.5).build((1, 28, 28), 10)
    assert [layer.out_features for layer in linear(model)] == [150, 50, 10]
    assert linear(model)[0].in_features == 784
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(("init", "gain"), [("glorot", lambda i, o: 6 / (i + o)), ("he", None)])
def test_mlp_draws_weights_as_the_papers_say(init: str, gain: object) -> None:
    torch.manual_seed(0)
    model = Mlp(widths=(200,), init=init).build((100,), 50)  # type: ignore[arg-type]
    for layer in linear(model):
        i, o = layer.in_features, layer.out_features
        bound = sqrt(gain(i, o) if callable(gain) else 6 / i)
        largest = float(layer.weight.detach().abs().max())
        assert 0.99 * bound < largest <= bound * (1 + 1e-6)
        assert float(layer.weight.detach().std()) == pytest.approx(bound / sqrt(3), rel=0.02)
        assert not bool(layer.bias.any())


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
def test_mlp_applies_the_activation(activation: str) -> None:
    model = Mlp(widths=(7,), activation=activation).build((5,), 2)  # type: ignore[arg-type]
    x = torch.randn(4, 5)
    first, last = linear(model)
    function = {"relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu}
    hidden = function.get(activation, lambda h: h)(first(x))
    torch.testing.assert_close(model(x), last(hidden))


def test_mlp_drops_in_training_only() -> None:
    model = Mlp(widths=(50,), dropout=0.5).build((5,), 2)
    x = torch.randn(1, 5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("options", [{"widths": (0,)}, {"scale": 0}, {"dropout": 1}])
def test_mlp_refuses_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Mlp.model_validate(options)


def test_mlp_reads_widths_as_text(registry: Registry) -> None:
    assert registry.create("model", "mlp:widths=300x100").instance.widths == (300, 100)
    assert registry.create("model", "mlp:widths=30,10,init=he").instance.widths == (30, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 20)])
def test_convnet_takes_small_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    model = Convnet().build(shape, 10)
    x = torch.randn(2, *shape)
    maps = [call for call in trace(model, x).calls if call.kind == "conv"]
    sizes = [tuple(side // 2**halvings for side in shape[1:]) for halvings in range(3)]
    assert [call.shape for call in maps] == [(16, *sizes[0]), (32, *sizes[1]), (32, *sizes[2])]
    assert model(x).shape == (2, 10)


def test_convnet_is_made_as_its_options_say(registry: Registry) -> None:
    spec = "convnet:channels=8x16,kernel=5,pools=2,hidden=0"
    plugin = registry.create("model", spec).instance
    network = plugin.build((2, 9, 9), 3)
    assert list(dict(network.named_children())) == [
        *("conv1", "relu1", "conv2", "relu2", "pool2", "flatten", "output")
    ]
    assert [m.kernel_size for m in network if isinstance(m, nn.Conv2d)] == [(5, 5), (5, 5)]
    assert network.output.in_features == 16 * 4 * 4
    dropping = Convnet(hidden=7, dropout=0.5).build((1, 8, 8), 3)
    assert dropping.get_submodule("dropout").p == 0.5
    assert Convnet(pools=()).build((1, 8, 8), 3).get_submodule("hidden").in_features == 32 * 64


@pytest.mark.parametrize(
    "options",
    [
        *({"channels": ()}, {"channels": (4, 0)}, {"kernel": 2}, {"pools": (4,)}, {"pools": (0,)}),
        {"hidden": 0, "dropout": 0.5},
    ],
)
def test_convnet_refuses_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Convnet(**options)


@pytest.mark.parametrize("shape", [(5,), (1, 9, 3), (1, 3, 9)])
def test_convnet_refuses_what_it_cannot_take(shape: tuple[int, ...]) -> None:
    sides = "×".join(map(str, shape))
    with pytest.raises(ModelError, match=f"of shape {sides} .*pictures of at least 4×4 pixels"):
        Convnet().build(shape, 2)


def test_convnet_redraws_all_its_weights() -> None:
    plugin = Convnet()
    network = plugin.build((1, 8, 8), 10)
    before = {name: value.clone() for name, value in network.named_parameters()}
    plugin.redraw(network)
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())


def test_torchvision_models_answer_to_their_names(registry: Registry) -> None:
    chosen = registry.create("model", "resnet18")
    assert isinstance(chosen.instance, TorchvisionModel)
    assert not chosen.instance.pretrained
    model = chosen.instance.build((3, 32, 32), 7)
    assert isinstance(model, models.ResNet)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert registry.recreate("model", chosen.record).instance == chosen.instance


def test_options_of_a_resolved_name(registry: Registry) -> None:
    chosen = registry.create("model", "resnet18:weights=DEFAULT,head=new")
    assert chosen.name == "resnet18"
    assert chosen.instance == TorchvisionModel(weights="DEFAULT", head="new")
    assert (
        chosen.instance
        == registry.create("model", "resnet18:head=new", {"weights": "DEFAULT"}).instance
    )
    assert registry.recreate("model", chosen.record).instance == chosen.instance


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnext", "no model is called 'resnext'"),
        ("mpl", "Did you mean 'mlp'"),
        ("mpl:scale=2", "Did you mean 'mlp'"),
        ("resnet18:weights=BEST", "has no weights 'BEST'; it has IMAGENET1K_V1, DEFAULT"),
        ("vgg16:weights=IMAGENET1K_FEATURES", "has no weights"),  # their classifier is NaN
        ("resnet18:widths=3", "no option 'widths'"),
        ("resnet18:resnet50", "takes option=value"),
    ],
)
def test_unknown_names_and_options(registry: Registry, spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.create("model", spec)


def test_an_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'resnet18'"):
        TorchvisionModel(architecture="resnet81")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("alexnet", (1, 8, 8)), ("alexnet", (3, 32, 32)), ("vit_b_32", (3, 32, 32)), ("vgg11", (5,))],
)
def test_pictures_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    shown = "×".join(map(str, shape))
    with pytest.raises(ModelError, match=rf"{name} .* {shown} .*3 channels and at least \d+×\d+"):
        TorchvisionModel(architecture=name).build(shape, 10)


def test_auxiliary_outputs_are_left_out() -> None:
    model = TorchvisionModel(architecture="googlenet").build((3, 32, 32), 4)
    assert isinstance(model.train()(torch.zeros(2, 3, 32, 32)), torch.Tensor)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Published weights of squeezenet1_1, made here in place of the download."""
    torch.manual_seed(5)
    state = models.squeezenet1_1().state_dict()

    def downloaded(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        print("Downloading")
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", downloaded)
    return state


def test_weights_are_loaded_when_asked_for(
    weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = TorchvisionModel(architecture="squeezenet1_1", weights="DEFAULT")
    model = plugin.build((3, 32, 32), 1000)
    assert plugin.pretrained
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert capsys.readouterr().out == ""


def test_weights_for_other_classes_need_a_new_head(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="know 1000 classes, the data has 5; add head=new"):
        TorchvisionModel(architecture="squeezenet1_1", weights="DEFAULT").build((3, 32, 32), 5)
    plugin = TorchvisionModel(architecture="squeezenet1_1", weights="DEFAULT", head="new")
    model = plugin.build((3, 32, 32), 5)
    assert not plugin.pretrained
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert torch.equal(model.state_dict()["features.0.weight"], weights["features.0.weight"])


def test_without_a_network_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"no route to host.*go online, put the file from http"):
        TorchvisionModel(weights="DEFAULT").build((3, 32, 32), 1000)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5"]
)
def test_the_last_layer_is_replaced(name: str) -> None:
    model = models.get_model(name).eval()
    replace_head(model, 1000, 3)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_network_without_such_a_layer_keeps_its_head() -> None:
    with pytest.raises(ModelError, match="no last layer of 1000 outputs"):
        replace_head(nn.Linear(3, 4), 1000, 3)


FACTORIES = """
from torch import nn

def by_name(*, outputs, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], outputs))

def by_position(shape, classes):
    return by_name(outputs=classes, input_shape=shape)

def alone(width=3):
    return nn.Linear(4, 2)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class made:
    @staticmethod
    def inside():
        return Net()

instance = Net()
number = 3

def one_argument(shape): ...

def raising():
    raise KeyError("gone")

def nothing():
    return None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a module `factories_here`."""
    (tmp_path / "factories_here.py").write_text(FACTORIES)
    (tmp_path / "broken_here.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories_here", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["by_name", "by_position", "alone", "Net", "made.inside"])
def test_a_factory_is_found_in_the_current_directory(
    name: str, folder: Path, registry: Registry
) -> None:
    path = list(sys.path)
    chosen = registry.create("model", f"factories_here:{name}")
    assert isinstance(chosen.instance, Factory)
    model = chosen.instance.build((4,), 2)
    assert model(torch.zeros(3, 4)).shape == (3, 2)
    assert model.training
    assert sys.path == path
    assert registry.recreate("model", chosen.record).instance == chosen.instance


def test_a_factory_may_say_that_its_network_is_trained(registry: Registry) -> None:
    assert registry.create("model", "factory:some.where:made,trained=true").instance.pretrained
    assert not registry.create("model", "some.where:made").instance.pretrained


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "names no factory"),
        ("factories_here", "names no factory"),
        ("factories_there:alone", "cannot import 'factories_there'.*run polykit in the folder"),
        ("broken_here:alone", "cannot import 'broken_here'.*ZeroDivisionError"),
        ("factories_here:missing", "has no 'missing'"),
        ("factories_here:instance", "is a Net, not a factory"),
        ("factories_here:number", "is a int, not a factory"),
        ("factories_here:one_argument", r"one_argument\(shape\) must be callable"),
        ("factories_here:raising", "raised KeyError: 'gone'"),
        ("factories_here:nothing", "returned a NoneType"),
    ],
)
def test_factories_that_fail(target: str, message: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=message):
        Factory(target=target).build((4,), 2)


@pytest.mark.parametrize(
    ("shape", "outputs", "message"), [((5,), 2, "inputs of shape 5 "), ((4,), 3, r"needs \(1, 3\)")]
)
def test_a_factory_whose_network_does_not_fit(
    shape: tuple[int, ...], outputs: int, message: str, folder: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        Factory(target="factories_here:alone").build(shape, outputs)


@pytest.mark.parametrize("plugin", [Mlp(), TorchvisionModel()])
def test_the_same_seed_builds_the_same_network(plugin: Model) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in plugin.build((3, 32, 32), 4).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys, polykit_builtins.models as m, polykit_builtins.datasets as d, "
        "polykit_builtins.features as f; [x.polykit_entries() for x in (m, d, f)]; "
        "m.polykit_resolve(kind='dataset', spec='x'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
