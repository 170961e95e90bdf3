import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from polykit.errors import ModelError
from polykit.runtime.training.checkpoints import load_weights


class Attack:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.fixture
def source():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture
def target():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested"])
def test_loads(tmp_path, source, target, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(
            {"state_dict": source.state_dict()} if form == "nested" else source.state_dict(), path
        )
    load_weights(target, path)
    assert torch.equal(target[0].weight, source[0].weight)


def refused(target, path, match):
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ModelError, match=match):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_pickled_objects_are_refused_and_not_run(tmp_path, target, capsys):
    torch.save(Attack(), tmp_path / "model.pt")
    refused(target, tmp_path / "model.pt", "pickled objects")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Attack()))
    refused(target, tmp_path / "plain.pt", r"plain\.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_damaged_files_are_said(tmp_path, target, name, content):
    (tmp_path / name).write_bytes(content)
    refused(target, tmp_path / name, "damaged|pickled")


def test_what_does_not_fit_is_said(tmp_path, target):
    refused(target, tmp_path / "missing.pt", "no checkpoint")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pt")
    refused(target, tmp_path / "other.pt", "is not for Sequential")
    wrong = {**target.state_dict(), "0.weight": torch.zeros(3, 5)}
    torch.save(wrong, tmp_path / "shape.pt")
    refused(target, tmp_path / "shape.pt", r"\(3, 5\)")
    nan = {**target.state_dict(), "0.weight": torch.full((3, 2), torch.nan)}
    torch.save(nan, tmp_path / "nan.pt")
    refused(target, tmp_path / "nan.pt", "NaN")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(target, tmp_path / "list.pt", "no state dict")
