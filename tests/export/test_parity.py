import numpy as np
import pytest
import torch
from torch import nn

from medkd.data.samples import load_samples
from medkd.export.parity import compare, in_torch, lost, why_refused
from medkd.metrics.overlap import dice
from medkd.predict.infer import predict_logits
from medkd.results import Interval, Parity


@pytest.fixture(scope="module")
def study(make_study):
    return make_study("preprocess.window=[12, 12]", dims=2)


@pytest.fixture(scope="module")
def samples(study):
    return load_samples(study[1].of(study[1].split.train), study[0].config)


class Pixels(nn.Module):
    """Three classes by intensity, as trained or with something added to a class."""

    def __init__(self, shift=0.0, scale=1.0):
        super().__init__()
        self.weight, self.shift, self.scale = nn.Parameter(torch.ones(1)), shift, scale

    def forward(self, x):
        logits = torch.cat([-2 * x, 0.5 + self.shift + 0 * x, 2 * x - 1], dim=1)
        return self.scale * self.weight * logits


def parity_of(released, study, samples):
    networks = {"x": in_torch(released)}
    return compare(Pixels(), networks, samples, study[0].config, temperature=1.0)["x"]


def test_the_same_network_is_the_same(study, samples):
    parity = parity_of(Pixels(), study, samples)
    assert (parity.largest_logit_difference, parity.agreement) == (0, 1)
    assert (parity.difference.low, parity.difference.value, parity.difference.high) == (0, 0, 0)
    assert why_refused(parity, may_lose=0.0) is None


def test_what_differs_is_measured_as_by_hand(study, samples):
    parity = parity_of(Pixels(shift=1.5), study, samples)
    assert parity.largest_logit_difference == pytest.approx(1.5, abs=1e-5)
    config, differences, same = study[0].config, [], []
    for sample in samples:
        masks = [
            predict_logits(network, sample.image, config).argmax(axis=0)
            for network in (Pixels(), Pixels(shift=1.5))
        ]
        same.append(masks[0] == masks[1])
        label = sample.label[0]
        scores = [np.mean([dice(m == i, label == i) for i in (1, 2)]) for m in masks]
        differences.append(scores[1] - scores[0])
    assert parity.agreement == pytest.approx(np.mean(same))
    assert parity.difference.value == pytest.approx(np.mean(differences))
    assert parity.difference.patients == 3


def test_the_temperature_is_fitted_to_what_is_released(study, samples):
    one, hot = (parity_of(Pixels(scale=s), study, samples) for s in (0.1, 0.4))
    assert hot.temperature == pytest.approx(4 * one.temperature, rel=1e-3)
    assert hot.ece == pytest.approx(one.ece, abs=1e-3)
    assert hot.trained_temperature == 1.0


@pytest.fixture
def parity():
    def make(value, low, largest=0.1):
        return Parity(
            largest_logit_difference=largest,
            largest_logit=1,
            agreement=1,
            figure="dice",
            trained=0.9,
            difference=Interval(value=value, low=low, high=0.1, cases=9, patients=9),
            trained_temperature=1,
            trained_ece=0,
            temperature=1,
            ece=0,
        )

    return make


def test_the_less_favourable_end_of_the_interval_decides(parity):
    assert lost(parity(-0.001, -0.004)) == 0.004
    assert why_refused(parity(-0.001, -0.003), may_lose=0.003) is None
    assert "loses 0.0010 dice" in why_refused(parity(-0.001, -0.0031), may_lose=0.003)


def test_without_an_interval_the_figure_decides(parity):
    assert lost(parity(-0.002, None)) == 0.002


@pytest.mark.parametrize("largest", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(parity, largest):
    assert why_refused(parity(0.0, 0.0, largest), may_lose=1.0) == "its logits are not finite"


def test_a_classifier_is_judged_by_the_share_of_images_it_gets_right(make_study):
    study, cohort = make_study(dims=2, task="classification")
    samples = load_samples(cohort.of(cohort.split.train), study.config)

    class Constant(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, x):
            return torch.eye(2)[self.answer].repeat(len(x), 1)

    networks = {"x": in_torch(Constant(1))}
    found = compare(Constant(0), networks, samples, study.config, temperature=1.0)["x"]
    assert found.figure == "accuracy"
    labels = np.array([int(sample.label[0]) for sample in samples])
    assert found.trained == pytest.approx((labels == 0).mean())
    assert found.difference.value == pytest.approx((labels == 1).mean() - (labels == 0).mean())


class Structures(nn.Module):
    """Two structures by intensity that may overlap."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(1)), shift

    def forward(self, x):
        return self.weight * torch.cat([2 * x - 1, x - 1 + self.shift], dim=1)


@pytest.mark.parametrize("temperature", [1.0, (1.0, 1.0)])
def test_structures_that_overlap_are_compared_each_by_itself(make_study, temperature):
    study, cohort = make_study("preprocess.window=[12, 12]", dims=2, overlapping=True)
    samples = load_samples(cohort.of(cohort.split.train), study.config)
    released = {"x": in_torch(Structures(shift=0.5)), "same": in_torch(Structures())}
    found = compare(Structures(), released, samples, study.config, temperature=temperature)
    assert (found["same"].agreement, found["same"].difference.value) == (1, 0)
    assert found["same"].ece == pytest.approx(found["same"].trained_ece, abs=0.2)
    same, differences = [], []
    for sample in samples:
        one, other = (
            predict_logits(network, sample.image, study.config) >= 0
            for network in (Structures(), Structures(shift=0.5))
        )
        same.append(one == other)
        truth = sample.label == 1
        differences.append(np.mean([dice(*p) for p in zip(other, truth, strict=True)])
                           - np.mean([dice(*p) for p in zip(one, truth, strict=True)]))  # fmt: skip
    assert found["x"].agreement == pytest.approx(np.mean(same))
    assert found["x"].difference.value == pytest.approx(np.mean(differences))
    assert isinstance(found["x"].temperature, type(temperature))


class Findings(nn.Module):
    """Two findings by the brightness of an image."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.weight, self.sign = nn.Parameter(torch.ones(1)), sign

    def forward(self, x):
        brightest = x.amax(dim=(1, 2, 3)) - 9  # a half is never reached
        return self.weight * torch.stack([brightest, self.sign * brightest], dim=1)


def test_findings_are_judged_at_the_operating_point_of_each_network(make_study):
    study, cohort = make_study(dims=2, task="classification", overlapping=True)
    samples = load_samples(cohort.of(cohort.split.train), study.config)
    networks = {"same": in_torch(Findings()), "turned": in_torch(Findings(sign=-1.0))}
    found = compare(Findings(), networks, samples, study.config, temperature=1.0)
    labels = np.stack([sample.label for sample in samples])
    logits = np.stack([sample.image.max() - 9 for sample in samples])

    def right(said, told):
        threshold = np.nextafter(np.float32(said[told == 0].max()), np.float32(np.inf))
        return np.mean((said >= threshold) == told)

    large, marked, turned = (
        right(said, labels[:, i]) for said, i in ((logits, 0), (logits, 1), (-logits, 1))
    )
    assert found["same"].trained == pytest.approx((large + marked) / 2)
    assert found["same"].difference.value == 0
    assert found["turned"].difference.value == pytest.approx((turned - marked) / 2)
    assert found["same"].figure == "accuracy"
