"""Networks trained together end up where each would end up alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polykit.errors import TrainingError
from polykit.runtime.samples.splits import LoaderSplit, TensorSplit
from polykit.runtime.seeds import seeded
from polykit.runtime.training import ensemble
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import train
from polykit.types import Data, Mask

CPU = torch.device("cpu")
AN_EPOCH = 5e-7


def world(seed, n=70, inputs=3, task="regression"):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=draw)
    y = torch.stack([x.sum(1), x[:, 0] * x[:, 1]], dim=1)
    if task == "classification":
        y = (y[:, 0] > 0).long()
    cut = n - 20
    splits = [TensorSplit(x[a:b], y[a:b]) for a, b in ((0, cut), (cut, cut + 10), (cut + 10, n))]
    return Data(f"world {seed}", *splits, task, (inputs,), 2)


def chain(seed, widths=(8, 5), dropout=0.0, activation=nn.ReLU, inputs=3):
    with seeded(seed, "test"):
        layers, size = [], inputs
        for width in widths:
            layers += [nn.Linear(size, width), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
            size = width
        return nn.Sequential(*layers, nn.Linear(size, 2))


def flat(jobs):
    return torch.cat([p.detach().flatten() for job in jobs for p in job.model.parameters()])


def gap(jobs, config, epochs=1, **options):
    """Train together and one by one; return both histories and the largest difference."""
    alone = [copy.deepcopy(job.model) for job in jobs]
    expected = [
        train(model, job.data, config, epochs, seed=job.seed, device=CPU, mask=job.mask)
        for model, job in zip(alone, jobs, strict=True)
    ]
    found = train_together(jobs, config, epochs, device=CPU, **options)
    worst = max(
        float((a - b).abs().max())
        for job, model in zip(jobs, alone, strict=True)
        for a, b in zip(job.model.state_dict().values(), model.state_dict().values(), strict=True)
    )
    return found, expected, worst


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_epoch_equals_training_alone(optimizer, dropout):
    config = TrainingConfig(optimizer=optimizer, lr=0.01, batch_size=16, weight_decay=0.01)
    worlds = [world(0), world(1)]
    jobs = [Job(chain(seed, dropout=dropout), worlds[seed % 2], seed) for seed in range(4)]
    found, expected, worst = gap(jobs, config)
    assert worst <= AN_EPOCH
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.epochs[0].loss == pytest.approx(theirs.epochs[0].loss, abs=1e-6)
        assert ours.epochs[0].validation_loss == pytest.approx(
            theirs.epochs[0].validation_loss, abs=1e-6
        )


@settings(deadline=None, max_examples=15)
@given(
    widths=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=4),
    dropout=st.sampled_from([0.0, 0.3]),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Identity]),
)
def test_networks_of_other_widths_are_padded_without_a_trace(widths, dropout, activation):
    config = TrainingConfig(lr=0.01, batch_size=16)
    data = world(0)
    jobs = [Job(chain(s, pair, dropout, activation), data, s) for s, pair in enumerate(widths)]
    _, _, worst = gap(jobs, config)
    assert worst <= AN_EPOCH
    assert [job.model[0].out_features for job in jobs] == [pair[0] for pair in widths]


def test_padding_stays_zero_where_an_activation_is_not(monkeypatch):
    monkeypatch.setattr(ensemble, "_PLAIN", (*ensemble._PLAIN, nn.Sigmoid))
    widths = enumerate((3, 6))
    jobs = [Job(chain(s, (w, 4), activation=nn.Sigmoid), world(0), s) for s, w in widths]
    _, _, worst = gap(jobs, TrainingConfig(lr=0.01, batch_size=16))
    assert worst <= AN_EPOCH


def test_masks_hold():
    jobs = []
    for seed in range(3):
        model = chain(seed)
        draw = torch.Generator().manual_seed(seed)
        keep = torch.rand(model[0].weight.shape, generator=draw) < 0.5
        jobs.append(Job(model, world(seed), seed, Mask({"0.weight": keep}) if seed else None))
    _, _, worst = gap(jobs, TrainingConfig(lr=0.01, batch_size=16), epochs=2)
    assert worst <= 2 * AN_EPOCH
    for job in jobs[1:]:
        assert bool((job.model[0].weight[~job.mask["0.weight"]] == 0).all())


def test_convolutions_train_together():
    def network(seed, channels):
        with seeded(seed, "test"):
            layers = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 4, 2))

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, 4, 4, generator=draw), torch.arange(40) % 2
    splits = [TensorSplit(x[part::2], y[part::2]) for part in (0, 1, 1)]
    data = Data("pictures", *splits, "classification", (1, 4, 4), 2)
    jobs = [Job(network(seed, channels), data, seed) for seed, channels in enumerate((2, 3, 5))]
    found, expected, worst = gap(jobs, TrainingConfig(lr=0.01, batch_size=8))
    assert worst <= AN_EPOCH
    accuracies = [h.epochs[0].validation_accuracy for h in found]
    assert accuracies == [h.epochs[0].validation_accuracy for h in expected]


def test_grouped_convolutions_of_other_widths_are_not_padded():
    def network(seed, channels):
        with seeded(seed, "test"):
            layers = [nn.Conv2d(2, channels, 1, groups=2), nn.ReLU(), nn.Flatten()]
            return nn.Sequential(*layers, nn.Linear(channels * 4, 2))

    x, y = (
        torch.randn(40, 2, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.arange(40) % 2,
    )
    splits = [TensorSplit(x[part::2], y[part::2]) for part in (0, 1, 1)]
    data = Data("pictures", *splits, "classification", (2, 2, 2), 2)
    _, _, worst = gap([Job(network(s, 4 + 4 * s), data, s) for s in (0, 1)], TrainingConfig())
    assert worst <= AN_EPOCH


def test_dropout_of_everything_is_no_division_by_zero():
    jobs = [Job(chain(seed, dropout=1.0), world(seed), seed) for seed in range(2)]
    _, _, worst = gap(jobs, TrainingConfig(batch_size=16))
    assert worst <= AN_EPOCH


def test_company_and_its_size_change_nothing_but_rounding():
    config = TrainingConfig(lr=0.01, batch_size=16)
    results = []
    for together in (2, 3, 5):
        jobs = [Job(chain(s, (3 + s, 4), 0.5), world(s % 2), s) for s in range(5)]
        train_together(jobs, config, 2, device=CPU, together=together)
        results.append(flat(jobs))
    assert float((results[0] - results[1]).abs().max()) <= 2 * AN_EPOCH
    assert float((results[0] - results[2]).abs().max()) <= 2 * AN_EPOCH


def test_same_jobs_give_the_same_bytes():
    def once():
        jobs = [Job(chain(s, dropout=0.5), world(s), s) for s in range(3)]
        train_together(jobs, TrainingConfig(batch_size=16), 2, device=CPU)
        return flat(jobs)

    assert torch.equal(once(), once())


@pytest.mark.parametrize("stop", ["loss", "best"])
def test_each_network_stops_by_itself(stop):
    config = TrainingConfig(lr=0.03, batch_size=8, stop=stop, stop_loss=0.9)
    jobs = [Job(chain(s, (16, 8)), world(s), s) for s in range(4)]
    found, expected, worst = gap(jobs, config, epochs=6)
    assert worst <= 2e-5
    assert [h.chosen for h in found] == [h.chosen for h in expected]
    assert [len(h.epochs) for h in found] == [len(h.epochs) for h in expected]
    assert [h.reached for h in found] == [h.reached for h in expected]
    assert len({h.chosen for h in found}) > 1


def test_told_of_each_epoch_with_its_weights():
    jobs = [Job(chain(s), world(s), s) for s in range(2)]
    seen = {}

    def tell(place, epoch):
        seen[place, epoch.epoch] = jobs[place].model[0].weight.detach().clone()

    train_together(jobs, TrainingConfig(batch_size=16), 2, device=CPU, on_epoch=tell)
    assert list(seen) == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert torch.equal(seen[1, 2], jobs[1].model[0].weight)
    assert not torch.equal(seen[1, 1], seen[1, 2])


@pytest.mark.parametrize("case", ["loader", "other dropout", "batch norm", "branches", "frozen"])
def test_what_cannot_be_stacked_trains_alone(case):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.drop(torch.relu(self.a(x))))

    def job(seed):
        data, model = world(seed), chain(seed)
        if case == "loader":
            splits = [
                LoaderSplit(torch.utils.data.TensorDataset(part.x, part.y))
                for part in (data.train, data.validation, data.test)
            ]
            data = Data("files", *splits, data.task, data.input_shape, data.outputs)
        elif case == "other dropout":
            model = nn.Sequential(nn.Linear(3, 4), nn.AlphaDropout(0.5), nn.Linear(4, 2))
        elif case == "batch norm":
            model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        elif case == "branches":
            with seeded(seed, "test"):
                model = Branches()
        else:
            model[0].weight.requires_grad_(False)
        return Job(model, data, seed)

    _, _, worst = gap([job(0), job(1)], TrainingConfig(batch_size=16))
    assert worst == 0.0


def test_state_is_left_as_training_leaves_it():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    jobs = [Job(chain(s, dropout=0.5), world(s), s) for s in range(2)]
    train_together(jobs, TrainingConfig(batch_size=16), 1, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    for job in jobs:
        assert not any(module.training for module in job.model.modules())
        assert type(job.model[2]) is nn.Dropout
        assert all(p.grad is None and p.requires_grad for p in job.model.parameters())


def test_a_diverging_network_is_an_error():
    jobs = [Job(chain(s), world(s), s) for s in range(2)]
    with pytest.raises(TrainingError, match=r"loss became .* smaller lr than 1e\+20"):
        train_together(jobs, TrainingConfig(optimizer="sgd", lr=1e20), 5, device=CPU)
