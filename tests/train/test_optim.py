from itertools import pairwise

import pytest
import torch
from torch import nn

from medkd.errors import TrainingError
from medkd.options import TrainOptions
from medkd.train.optim import WeightAverage, adamw, learning_rate, precision

OPTIONS = TrainOptions(steps=100, warmup_steps=10, learning_rate=0.5, weight_decay=0.1)


def test_only_matrices_are_decayed():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, others = adamw(model.parameters(), OPTIONS).param_groups
    assert [p.shape for p in decayed["params"]] == [model[0].weight.shape]
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in (decayed, others)) == len(list(model.parameters()))


def test_the_rate_rises_linearly_then_falls_to_a_hundredth():
    rates = [learning_rate(step, OPTIONS) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * n for n in range(1, 11)])
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert max(rates) == 0.5
    assert rates[55] == pytest.approx(0.5 * 0.505, rel=1e-3)  # halfway down the cosine
    assert learning_rate(100, OPTIONS) == pytest.approx(0.005)


def test_training_may_be_shorter_than_its_warm_up():
    options = TrainOptions(steps=3, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(step, options) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_the_average_follows_the_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, decay=0.5)
    expected = 0.0
    for step, weight in enumerate((3.0, -1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)):
        nn.init.constant_(model.weight, weight)
        average.update(model, step=step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert average.weights["weight"].item() == pytest.approx(expected)


def test_the_average_of_a_constant_is_the_constant():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.99)
    for step in range(5):
        average.update(model, step=step)
    torch.testing.assert_close(average.weights, dict(model.state_dict()))


def test_counters_are_copied_not_averaged():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.99)
    model.num_batches_tracked.fill_(7)
    average.update(model, step=0)
    assert average.weights["num_batches_tracked"] == 7


def test_the_average_is_no_view_of_the_weights():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.99)
    nn.init.constant_(model.weight, 100.0)
    assert average.weights["weight"] != 100.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_needs_a_gpu():
    options = TrainOptions(steps=1, precision="16-mixed")
    with pytest.raises(TrainingError, match=r"train\.precision: 16-mixed .*; write auto"):
        precision(options)
