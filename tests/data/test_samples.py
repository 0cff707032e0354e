from dataclasses import replace

import numpy as np
import pytest
import torch

from medkd.config import load
from medkd.data import samples as module
from medkd.data.check import check
from medkd.data.datalist import read_datalist
from medkd.data.loaders import PatchDataset
from medkd.data.samples import PLACES_PER_CLASS, load_samples, places_in
from medkd.options import TrainOptions
from medkd.study import Study
from medkd.types import UNLABELLED


def limited(study, memory_gib):
    data = study.config.data.model_copy(update={"memory_gib": memory_gib})
    return study.config.model_copy(update={"data": data})


@pytest.fixture(params=[2, 3])
def cohort(request, make_config):
    path = make_config(dims=request.param)
    study = Study(load(path), config_path=path)
    cohort = check(study)
    return study, cohort.of(cohort.split.train)


def test_cases_that_do_not_fit_in_memory_train_the_same(cohort):
    study, cases = cohort
    options = TrainOptions(steps=4, batch=2, workers=0)
    little = limited(study, 1e-9)
    held, kept = load_samples(cases, study.config), load_samples(cases, little)
    assert not any(isinstance(sample.image, np.memmap) for sample in held)
    for sample in kept:
        assert isinstance(sample.image, np.memmap)
        assert isinstance(sample.label, np.memmap)
    patches = [PatchDataset(found, study.config, options=options) for found in (held, kept)]
    for index in range(8):
        for key, value in patches[0][index].items():
            assert torch.equal(value, patches[1][index][key]), key
    assert [vars(sample.grid).keys() for sample in held] == [vars(s.grid).keys() for s in kept]


def test_what_was_kept_is_not_preprocessed_again(cohort, monkeypatch):
    study, cases = cohort
    little = limited(study, 1e-9)
    first = load_samples(cases, little)
    monkeypatch.setattr(module, "preprocess", lambda *_: pytest.fail("preprocessed again"))
    for again in (load_samples(cases, little), load_samples(cases, study.config)):
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            assert repr(one.grid) == repr(other.grid)
            assert [p.tolist() for p in one.places] == [p.tolist() for p in other.places]


def test_another_file_is_another_case(cohort, monkeypatch):
    study, (case, other, *_) = cohort
    little = limited(study, 1e-9)
    load_samples([case], little)
    case.image.write_bytes(other.image.read_bytes())
    (sample,) = load_samples([case], little)
    (expected,) = load_samples([replace(other, label=case.label)], limited(study, None))
    np.testing.assert_array_equal(sample.image, expected.image)


def test_voxels_that_nobody_has_judged_are_no_class(cohort, tmp_path):
    study, (case, *_) = cohort
    data = study.config.data.model_copy(update={"labels": {"ball": 1}, "ignore": 2})
    config = study.config.model_copy(update={"data": data})
    (sample,) = load_samples([case], config)
    assert set(np.unique(sample.label)) == {0, 1, UNLABELLED}
    (places,) = sample.places
    assert (sample.label[0][tuple(places.T)] == 1).all()


def test_places_are_voxels_of_their_class_and_not_all_of_them():
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:18, 2:18, 2:18], label[0, 0, :3] = 1, 4
    many, few = places_in(label, "case")
    assert many.shape == (PLACES_PER_CLASS, 3)
    assert (label[tuple(many.T)] == 1).all()
    assert sorted(map(tuple, few)) == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert [p.tolist() for p in places_in(label, "case")] == [many.tolist(), few.tolist()]


@pytest.mark.parametrize("dims", [2, 3])
def test_structures_that_overlap_have_a_channel_each_and_places_of_their_own(make_config, dims):
    config, (case, *_) = listed(make_config(dims=dims, overlapping=True))
    (sample,) = load_samples([case], config)
    assert sample.label.shape == (2, *sample.image.shape[1:])
    assert set(np.unique(sample.label)) == {0, 1}
    ball, core = sample.label == 1
    assert (ball & core).sum() == core.sum() > 0
    for mask, places in zip((ball, core), sample.places, strict=True):
        assert mask[tuple(places.T)].all()
    (unlabelled,) = load_samples([replace(case, label=None)], config)
    assert unlabelled.label.shape == sample.label.shape
    assert (unlabelled.label == UNLABELLED).all()
    (part,) = load_samples([replace(case, annotated=("core",))], config)
    assert (part.label[0] == UNLABELLED).all()
    np.testing.assert_array_equal(part.label[1], sample.label[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_label_map_whose_structures_nest_is_as_channels_of_them(make_config, dims):
    nested = ("data.overlapping=true", "data.includes={ball: [core]}")
    maps = listed(make_config(dims=dims), *nested)
    channels = listed(make_config(dims=dims, overlapping=True))
    found = [load_samples(cases, config) for config, cases in (maps, channels)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.label, other.label)


def listed(path, *overrides):
    """Return a config and its cases."""
    config = load(path, overrides=overrides)
    return config, read_datalist(Study(config, path))


@pytest.mark.parametrize("overlapping", [False, True])
def test_another_class_of_the_same_image_is_another_sample(make_config, overlapping):
    path = make_config(dims=2, task="classification", overlapping=overlapping)
    study = Study(load(path), config_path=path)
    (case, *_) = read_datalist(study)
    little = limited(study, 1e-9)
    (before,) = load_samples([case], little)
    other = ("large", "marked") if overlapping else 1
    (after,) = load_samples([replace(case, label=other)], little)
    assert after.label.tolist() != before.label.tolist()
    (hidden,) = load_samples([replace(case, label=None)], little)
    assert set(hidden.label.tolist()) == {UNLABELLED}


def test_another_name_for_a_finding_is_another_sample(make_config):
    path = make_config(dims=2, task="classification", overlapping=True)
    study = Study(load(path), config_path=path)
    case = replace(read_datalist(study)[0], label=("marked",))
    little = limited(study, 1e-9)
    (before,) = load_samples([case], little)
    names = list(little.data.labels)
    swapped = dict(zip(names, reversed(little.data.labels.values()), strict=True))
    data = little.data.model_copy(update={"labels": swapped})
    (after,) = load_samples([case], little.model_copy(update={"data": data}))
    assert before.label.tolist() == after.label.tolist()[::-1]
    assert set(before.label.tolist()) == {0, 1}
