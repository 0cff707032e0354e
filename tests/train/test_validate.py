from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from sklearn.metrics import log_loss, roc_auc_score

from medkd.data.samples import load_samples
from medkd.train import validate
from medkd.train.validate import fitted_temperature, validation_figures
from medkd.types import UNLABELLED


@pytest.fixture
def said(make_study, monkeypatch):
    """Return a maker of samples and of what a network says of them, whatever it is."""

    def make(task):
        study, cohort = make_study(dims=2, task=task)
        ids = cohort.split.train
        samples = load_samples(cohort.of(ids), study.config)
        rng = np.random.default_rng(0)
        answers = {}
        for sample in samples:
            space = sample.image.shape[1:] if task == "segmentation" else ()
            classes = np.arange(len(study.config.classes)).reshape(-1, *[1] * len(space))
            truth = sample.label if space else int(sample.label[0])
            logits = rng.normal(size=(len(classes), *space)) + (classes == truth)
            answers[sample.image.tobytes()] = log_softmax(2 * logits, axis=0)
        monkeypatch.setattr(
            validate, "predict_logits", lambda _, image, __: answers[image.tobytes()]
        )
        in_order = [(answers[s.image.tobytes()], s.label.astype(int)) for s in samples]
        return study.config, samples, in_order

    return make


def nll(answers, temperature=1.0):
    cooled = [(log_softmax(a / temperature, axis=0), label) for a, label in answers]
    return -np.mean([np.take_along_axis(a, label, axis=0).mean() for a, label in cooled])


def test_segmentation_is_dice_by_structure_and_nll(said):
    config, samples, answers = said("segmentation")
    found = validation_figures(torch.nn.Identity(), samples, config)
    assert next(iter(found)) == "dice"
    by_structure = []
    for index, name in ((1, "ball"), (2, "core")):
        masks = [(a.argmax(0) == index, label[0] == index) for a, label in answers]
        dice = [2 * (p & q).sum() / (p.sum() + q.sum()) for p, q in masks]
        by_structure.append(np.mean(dice))
        assert found[f"dice/{name}"] == pytest.approx(by_structure[-1])
    assert found["dice"] == pytest.approx(np.mean(by_structure))
    assert found["nll"] == pytest.approx(nll(answers))


def test_classification_is_auroc_and_nll(said):
    config, samples, answers = said("classification")
    found = validation_figures(torch.nn.Identity(), samples, config)
    labels = [int(label[0]) for _, label in answers]
    assert next(iter(found)) == "auroc"
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, [a[1] for a, _ in answers]))
    assert found["nll"] == pytest.approx(nll(answers))


def test_the_temperature_is_the_one_of_least_nll(said):
    config, samples, answers = said("segmentation")
    temperature = fitted_temperature(torch.nn.Identity(), samples, config)

    least = nll(answers, temperature)
    assert least <= min(nll(answers, 0.9 * temperature), nll(answers, 1.1 * temperature))


def test_a_structure_counts_in_the_cases_whose_label_covers_it(said):
    config, samples, answers = said("segmentation")
    part = replace(samples[0].case, annotated=("ball",))
    first, label = answers[0][0], np.where(samples[0].label == 2, 0, samples[0].label)
    samples = [replace(samples[0], case=part, label=label), *samples[1:]]
    found = validation_figures(torch.nn.Identity(), samples, config)
    dice = []
    for index, chosen in ((1, answers), (2, answers[1:])):
        masks = [(a.argmax(0) == index, truth[0] == index) for a, truth in chosen]
        dice.append(np.mean([2 * (p & q).sum() / (p.sum() + q.sum()) for p, q in masks]))
    assert found["dice/core"] == pytest.approx(dice[1])
    assert found["dice"] == pytest.approx(np.mean(dice))
    of_label = np.where(label[0] == 1, first[1], np.logaddexp(first[0], first[2]))
    rest = [nll([each]) for each in answers[1:]]
    assert found["nll"] == pytest.approx(np.mean([-of_label.mean(), *rest]))


def test_a_label_that_covers_a_part_calibrates_by_what_it_tells(said):
    config, samples, answers = said("segmentation")
    parts = [
        replace(
            s, case=replace(s.case, annotated=("ball",)), label=np.where(s.label == 2, 0, s.label)
        )
        for s in samples
    ]
    temperature = fitted_temperature(torch.nn.Identity(), parts, config)

    def of_told(temperature):
        cooled = [log_softmax(a / temperature, axis=0) for a, _ in answers]
        pairs = [(c, s.label[0]) for c, s in zip(cooled, parts, strict=True)]
        return -np.mean([np.where(t == 1, c[1], np.logaddexp(c[0], c[2])).mean() for c, t in pairs])

    least = of_told(temperature)
    assert least <= min(of_told(0.9 * temperature), of_told(1.1 * temperature))


def test_structures_that_overlap_are_scored_each_where_it_is_judged(make_study, monkeypatch):
    study, cohort = make_study(dims=2, overlapping=True)
    rng = np.random.default_rng(0)
    samples, answers = [], {}
    for sample in load_samples(cohort.of(cohort.split.train), study.config):
        label = sample.label.copy()
        label[0, :4] = UNLABELLED
        samples.append(replace(sample, label=label))
        noise = rng.normal(size=label.shape)
        answers[sample.image.tobytes()] = noise + 3.0 * (sample.label == 1) - 1.5
    monkeypatch.setattr(validate, "predict_logits", lambda _, image, __: answers[image.tobytes()])
    found = validation_figures(torch.nn.Identity(), samples, study.config)
    dice, nll = [], []
    for sample in samples:
        logits, judged = answers[sample.image.tobytes()], sample.label != UNLABELLED
        truth, said = (sample.label == 1) & judged, (logits >= 0) & judged
        dice.append(
            [2 * (p & q).sum() / (p.sum() + q.sum()) for p, q in zip(said, truth, strict=True)]
        )
        nll.append(log_loss(truth[judged], expit(logits[judged])))
    assert found["nll"] == pytest.approx(np.mean(nll))
    for name, value in zip(("ball", "core"), np.mean(dice, axis=0), strict=True):
        assert found[f"dice/{name}"] == pytest.approx(value)
    assert found["dice"] == pytest.approx(np.mean(dice))


def test_findings_are_scored_each_where_it_was_judged(make_study, monkeypatch):
    study, cohort = make_study(dims=2, task="classification", overlapping=True)
    first, *others = load_samples(cohort.of(cohort.split.train), study.config)
    part = np.array([UNLABELLED, first.label[1]], np.uint8)
    samples = [replace(first, label=part), *others]
    rng = np.random.default_rng(0)
    said = {s.image.tobytes(): rng.normal(size=2).astype(np.float32) for s in samples}
    monkeypatch.setattr(validate, "predict_logits", lambda _, image, __: said[image.tobytes()])
    found = validation_figures(torch.nn.Identity(), samples, study.config)
    assert next(iter(found)) == "auroc"
    logits, labels = np.stack(list(said.values())), np.stack([s.label for s in samples])
    each = [roc_auc_score(labels[1:, 0], logits[1:, 0]), roc_auc_score(labels[:, 1], logits[:, 1])]
    assert [found["auroc/large"], found["auroc/marked"]] == pytest.approx(each)
    assert found["auroc"] == pytest.approx(np.mean(each))
    judged = labels != UNLABELLED
    costs = [
        log_loss(t[j], expit(q[j]), labels=[0, 1])
        for t, q, j in zip(labels, logits.astype(float), judged, strict=True)
    ]
    assert found["nll"] == pytest.approx(np.mean(costs))
    fitted = fitted_temperature(torch.nn.Identity(), samples, study.config, by_class=True)
    assert len(fitted) == 2
