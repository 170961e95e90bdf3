import math

import pytest
import torch
from torch import nn

from polykit.errors import TrainingError
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.training import loop as training
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import evaluate, train
from polykit.types import Mask

CPU = torch.device("cpu")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    return as_data((x, y), name="halves")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def test_equals_a_loop_written_by_hand(data):
    config = TrainingConfig(batch_size=16, lr=0.01)
    ours = network()
    ours[2].p = 0.0
    history = train(ours, data, config, 3, seed=5, device=CPU)
    theirs = network()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    x, y = (torch.cat(parts) for parts in zip(*data.train.batches(1000), strict=True))
    for epoch in range(1, 4):
        order = torch.randperm(len(x), generator=training.generator(5, "order", epoch))
        for chunk in order.split(16):
            optimizer.zero_grad()
            hidden = theirs[1](theirs[0](x[chunk]))
            nn.functional.cross_entropy(theirs[3](hidden), y[chunk]).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3]
    assert history.epochs[-1].validation_loss == evaluate(ours, data.validation, data.task, CPU)[0]


def test_a_step_descends_the_loss_given(data):
    config = TrainingConfig(optimizer="sgd", batch_size=1000, lr=0.1)
    ours, theirs = network(), network()
    ours[2].p = theirs[2].p = 0.0
    seen = []

    def shrink(model, x, y):
        seen.append((len(x), len(y)))
        return sum(parameter.square().sum() for parameter in model.parameters())

    size = shrink(ours, [], []).item()
    history = train(ours, data, config, 1, seed=0, device=CPU, loss=shrink)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, 0.8 * b)
    assert seen[1:] == [(len(data.train), len(data.train))]
    (epoch,) = history.epochs
    assert epoch.loss == pytest.approx(size)
    assert epoch.validation_loss == evaluate(ours, data.validation, data.task, CPU)[0]


def test_resuming_with_a_loss_of_ones_own_is_exact(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)

    def loss(model, x, y):
        penalty = 0.01 * sum(parameter.abs().sum() for parameter in model.parameters())
        return nn.functional.cross_entropy(model(x), y) + penalty

    config, path = TrainingConfig(batch_size=16), tmp_path / "state"
    whole, half, resumed = network(), network(), network(seed=99)
    expected = train(whole, data, config, 4, seed=1, device=CPU, loss=loss)
    train(half, data, config, 2, seed=1, device=CPU, loss=loss, checkpoint=path)
    history = train(resumed, data, config, 4, seed=1, device=CPU, loss=loss, checkpoint=path)
    assert history == expected
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
@pytest.mark.parametrize("stop", ["epochs", "best"])
def test_resumed_training_equals_an_undisturbed_one(data, tmp_path, monkeypatch, optimizer, stop):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    config = TrainingConfig(optimizer=optimizer, momentum=0.9, lr=0.05, stop=stop, batch_size=8)
    whole = network()
    expected = train(whole, data, config, 6, seed=1, device=CPU)
    path = tmp_path / "state"

    def interrupt(epoch):
        if epoch.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), data, config, 6, seed=1, device=CPU, checkpoint=path, on_epoch=interrupt)
    assert path.exists()
    seen = []
    resumed = network(seed=99)
    history = train(
        resumed, data, config, 6, seed=1, device=CPU, checkpoint=path, on_epoch=seen.append
    )
    assert [epoch.epoch for epoch in seen] == [4, 5, 6]
    assert history == expected
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_damaged_state_is_named_and_training_begins_again(
    data, tmp_path, monkeypatch, caplog, place
):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    config, path = TrainingConfig(batch_size=16), tmp_path / "state"
    train(network(), data, config, 2, seed=1, device=CPU, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    seen, whole, again = [], network(), network()
    expected = train(whole, data, config, 3, seed=1, device=CPU)
    found = train(again, data, config, 3, seed=1, device=CPU, checkpoint=path, on_epoch=seen.append)
    assert found == expected
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert caplog.messages == [
        f"{path} is damaged: it is not what was written; this training begins again"
    ]
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_stop_at_a_loss_and_say_when_it_is_never_reached(data):
    config = TrainingConfig(stop="loss", stop_loss=0.5, lr=0.05)
    history = train(network(), data, config, 200, seed=0, device=CPU)
    assert history.reached
    assert history.epochs[-1].validation_loss <= 0.5 < history.epochs[-2].validation_loss
    never = train(
        network(), data, TrainingConfig(stop="loss", stop_loss=1e-9), 2, seed=0, device=CPU
    )
    assert not never.reached
    assert len(never.epochs) == 2


def test_best_keeps_the_best_epoch(data):
    model = network()
    config = TrainingConfig(stop="best", lr=0.3, batch_size=8)
    history = train(model, data, config, 12, seed=3, device=CPU)
    best = min(history.epochs, key=lambda epoch: epoch.validation_loss)
    assert history.chosen == best.epoch
    assert evaluate(model, data.validation, data.task, CPU)[0] == best.validation_loss


def test_removed_weights_stay_zero_and_random_state_is_left_alone(data):
    model = network()
    keep = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    before = torch.get_rng_state()
    train(
        model,
        data,
        TrainingConfig(momentum=0.9, optimizer="sgd", weight_decay=0.1),
        2,
        seed=0,
        device=CPU,
        mask=Mask({"0.weight": keep}),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert bool((model[0].weight[~keep] == 0).all())
    assert bool((model[0].weight[keep] != 0).all())


def test_divergence_is_said(data):
    config = TrainingConfig(optimizer="sgd", lr=1e30)
    with pytest.raises(TrainingError, match="smaller lr"):
        train(network(), data, config, 5, seed=0, device=CPU)


def test_outputs_that_do_not_fit_are_said(data):
    model = nn.Linear(4, 1)
    with pytest.raises(TrainingError, match="2 classes"):
        train(model, data, TrainingConfig(), 1, seed=0, device=CPU)


def test_evaluate_does_not_depend_on_the_chunk(data):
    model = network().double()
    x, y = next(data.test.batches(1000))
    double = TensorSplit(x.double(), y)
    one = evaluate(model, double, "classification", CPU, batch_size=1)
    all_at_once = evaluate(model, double, "classification", CPU, batch_size=1000)
    assert math.isclose(one[0], all_at_once[0], rel_tol=1e-12)
    assert one[1] == all_at_once[1]
    assert model.training
