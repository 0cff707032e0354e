import json

import pytest
import torch
from torch import nn

from medkd.errors import DataError
from medkd.models import checkpoint
from medkd.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medkd.models.zoo import MODELS
from medkd.types import Task

DESCRIPTION = Checkpoint(
    model={"name": "plain_unet", "channels": [4, 8]},
    task=Task.SEGMENTATION,
    in_channels=1,
    classes=("background", "ball"),
    spatial_dims=2,
    temperature=1.5,
    figures={"dice": 0.8},
    patients=("patient-1", "patient-2"),
)


@pytest.fixture
def saved(tmp_path):
    model = DESCRIPTION.build()
    save_checkpoint(tmp_path, model, DESCRIPTION)
    return model


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_weights_and_description_come_back(saved, tmp_path):
    model, description = load_checkpoint(tmp_path)
    assert description == DESCRIPTION
    assert not model.training
    image = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(model(image), saved.eval()(image), rtol=0, atol=0)


def test_shared_weights_stay_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Checkpoint, "build", lambda _: Tied())
    tied = Tied()
    save_checkpoint(tmp_path, tied, DESCRIPTION)
    model, _ = load_checkpoint(tmp_path)
    assert model.first.weight is model.second.weight
    torch.testing.assert_close(model.state_dict(), tied.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
@pytest.mark.usefixtures("saved")
def test_a_damaged_checkpoint_is_refused(tmp_path, name, damage):
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{tmp_path}: not a checkpoint of medkd"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"classes": ["a", "b", "c"]}, {"model": {"name": "plain_unet"}}, {"task": "dance"}, {"x": 1}],
)
@pytest.mark.usefixtures("saved")
def test_a_description_of_other_weights_is_refused(tmp_path, change):
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="not a checkpoint of medkd"):
        load_checkpoint(tmp_path)


@pytest.mark.usefixtures("saved")
def test_a_checkpoint_holds_no_code(tmp_path):
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert "plain_unet" in MODELS[Task.SEGMENTATION]
