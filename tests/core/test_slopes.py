"""Factors of G and M against per-sample Jacobians in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from polykit.errors import ModelError
from polykit.runtime.degeneracy import slopes
from polykit.runtime.degeneracy.relu_chain import relu_chain
from polykit.runtime.degeneracy.slopes import INPUT, Factors, Ones, gather
from polykit.runtime.passes.trace import trace
from polykit.testing.state import unchanged


class Tokens(nn.Module):
    """From `[n, width]` to two tokens a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1))


class ByHand(nn.Module):
    """A batch normalisation in evaluation, written so that its mean has slopes, too."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.bias, self.running_mean = norm.bias, nn.Parameter(norm.running_mean)
        self.scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.running_mean[:, None, None]
        return x * self.scale[:, None, None] + self.bias[:, None, None]


def networks() -> dict[str, tuple[nn.Sequential, tuple[int, ...]]]:
    """Networks whose layer "0" ends with module 1, and their input shapes."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.bias.data.uniform_(-1, 1)
    relu, flat = nn.ReLU, nn.Flatten
    mlp = nn.Sequential(nn.Linear(5, 6), relu(), nn.Linear(6, 4), relu(), nn.Linear(4, 3))
    tanh = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), relu(), nn.Linear(4, 3))
    plain = nn.Sequential(nn.Linear(5, 4, bias=False), relu(), nn.Linear(4, 2, bias=False), relu())
    conv = nn.Sequential(
        nn.Conv2d(1, 3, 3), relu(inplace=True), nn.Conv2d(3, 4, 2), norm, relu(inplace=True),
        nn.MaxPool2d(2), flat(), nn.Linear(4, 3),
    )  # fmt: skip
    tokens = nn.Sequential(
        nn.Linear(6, 4), relu(), Tokens(), nn.Linear(2, 3), relu(), flat(), nn.Linear(6, 2)
    )
    return {
        "mlp": (mlp, (5,)),
        "tanh": (tanh, (5,)),
        "plain": (plain, (5,)),
        "conv": (conv, (1, 5, 5)),
        "tokens": (tokens, (6,)),
    }


def inputs(shape: tuple[int, ...], n: int = 12) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def brute(model: nn.Sequential, x: Tensor, ones: Ones) -> tuple[Tensor, Tensor]:
    """G and M behind module 1, by definition: one Jacobian a sample, kept whole."""
    model = model.double().eval()
    f = model[:2](x).detach()
    modules = (ByHand(part) if isinstance(part, nn.BatchNorm2d) else part for part in model[2:])
    tail = nn.Sequential(*modules)
    constants = {n: t for n, t in tail.named_parameters() if n.endswith(("bias", "mean"))}
    if ones == "exo":
        own = [n for n, _ in tail.named_modules() if n and n in constants_before_relu(tail)]
        constants = {n: t for n, t in constants.items() if n.split(".")[0] in own}

    def outputs(f: Tensor, t: Tensor) -> Tensor:
        scaled = {name: value.detach() * t for name, value in constants.items()}
        return functional_call(tail, scaled, (f[None],)).flatten()

    one = torch.ones((), dtype=torch.float64)
    along = vmap(jacrev(outputs, argnums=0), (0, None))(f, one)  # [n, k, units, *positions]
    constant = vmap(jacrev(outputs, argnums=1), (0, None))(f, one)  # [n, k]
    along = along.flatten(3) if along.dim() > 3 else along[..., None]
    positions = along.shape[3]
    J = torch.cat([(constant / positions)[:, :, None, None].expand_as(along[:, :, :1]), along], 2)
    F = f.flatten(2) if f.dim() > 2 else f[..., None]
    F = torch.cat([torch.ones_like(F[:, :1]), F], 1)
    samples = len(f) * positions
    return (
        torch.einsum("nip,njp->ij", F, F) / samples,
        torch.einsum("nkip,nkjp->ij", J, J) / samples,
    )


def constants_before_relu(tail: nn.Sequential) -> set[str]:
    """Names of the modules up to the first ReLU."""
    names: set[str] = set()
    for name, module in tail.named_children():
        if isinstance(module, nn.ReLU):
            break
        names.add(name)
    return names


def expect(factors: Factors, G: Tensor, M: Tensor) -> None:
    torch.testing.assert_close(factors.F.T @ factors.F, G, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(factors.J.T @ factors.J, M, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ones", ["carry", "exo"])
@pytest.mark.parametrize("name", networks())
def test_against_a_jacobian_for_each_sample(name: str, ones: Ones) -> None:
    model, shape = networks()[name]
    model.eval()
    x = inputs(shape)
    passed = trace(model, x.float())
    with unchanged(model):  # float32, looked at in float64
        found = gather(model, x.split(5), passed, ["0"], ones=ones)["0"]
    expect(found, *brute(model, x, ones))


@pytest.mark.parametrize("ones", ["carry", "exo"])
def test_the_closed_form_and_the_general_way_agree(
    ones: Ones, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shape = networks()["mlp"]
    x = inputs(shape)
    passed = trace(model, x.float())
    layers = [INPUT, "0", "2", "4"]
    assert relu_chain(model, passed)
    closed = gather(model, [x], passed, layers, ones=ones)
    monkeypatch.setattr(slopes, "relu_chain", lambda *_: ())
    general = gather(model, [x], passed, layers, ones=ones)
    for layer in layers:
        F, J = general[layer].F, general[layer].J
        expect(closed[layer], F.T @ F, J.T @ J)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_few_slopes_at_a_time_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one output of one sample at a time."""
    model, shape = networks()[name]
    x = inputs(shape)
    passed = trace(model.eval(), x.float())
    whole = gather(model, [x], passed, ["0"])["0"]
    monkeypatch.setattr(slopes, "NUMBERS", 1)
    expect(gather(model, [x], passed, ["0"])["0"], whole.F.T @ whole.F, whole.J.T @ whole.J)


def test_before_the_nonlinearity() -> None:
    model, shape = networks()["mlp"]
    x = inputs(shape)
    found = gather(model, [x], trace(model, x.float()), ["0"], at="pre")["0"]
    chain = nn.Sequential(model[0], nn.Identity(), *model[1:])
    expect(found, *brute(chain, x, "carry"))


def test_only_plain_chains_are_taken_for_chains() -> None:
    for name, (model, shape) in networks().items():
        chain = relu_chain(model, trace(model, inputs(shape).float()))
        assert bool(chain) == (name in ("mlp", "plain"))
    model, shape = networks()["mlp"]
    model[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not relu_chain(model, trace(model, inputs(shape).float()))


def test_nan_is_refused() -> None:
    model, shape = networks()["mlp"]
    x = inputs(shape)
    passed = trace(model, x.float())
    model[2].weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        gather(model, [x], passed, ["0"])


def test_a_network_with_two_outputs_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    x = inputs((3,))
    with pytest.raises(ModelError, match="single tensor"):
        gather(Two(), [x], trace(Two(), x.float()), ["layer"])


def test_tokens_have_slopes_behind_their_embedding_only() -> None:
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    x = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]])
    found = gather(model, [x], trace(model, x), ["2"])["2"]
    tail = nn.Sequential(*model[2:])
    behind = model[:2](x).detach()
    expected = gather(tail, [behind], trace(tail, behind), ["0"])["0"]
    expect(found, expected.F.T @ expected.F, expected.J.T @ expected.J)
    with pytest.raises(ModelError, match="integers"):
        gather(model, [x], trace(model, x), [INPUT])
