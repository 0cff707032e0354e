import os
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from medkd.config import load
from medkd.data import images, loaders, nifti
from medkd.data.datalist import read_datalist
from medkd.data.loaders import PatchDataset, batches
from medkd.data.samples import load_samples, places_in
from medkd.distill.soft_targets import SoftTargetStore
from medkd.options import AugmentOptions, TrainOptions
from medkd.study import Study
from medkd.types import UNLABELLED, Activation, Case, Task

CLASSES = 3
AUGMENT = {"probability": 1.0, "rotate_degrees": 20, "noise_std": 0.2, "flip_axes": (0,)}


def options(**values):
    return TrainOptions(**{"steps": 10, "batch": 2} | values)


@pytest.fixture
def make_samples(tmp_path):
    """Write cases of these shapes and preprocess them; case n has the values n and n + 0.5."""

    def make(study, shapes, *, soft=False):
        cases, rng = [], np.random.default_rng(0)
        for number, shape in enumerate(shapes):
            label = np.zeros(shape, np.uint8)
            label[tuple(slice(n // 2, n // 2 + 2) for n in shape)] = 5
            image = (100 * rng.random(shape)).astype(np.uint8)
            suffix, write = (".png", images.write) if len(shape) == 2 else (".nii.gz", nifti.write)
            paths = [tmp_path / f"c{number}{kind}{suffix}" for kind in ("", "-label")]
            for path, array in zip(paths, (image, label), strict=True):
                write(path, array, **({} if len(shape) == 2 else {"affine": np.eye(4)}))
            cases.append(Case(f"c{number}", paths[0], paths[1], patient=str(number)))
        samples = load_samples(cases, study.config)
        return [with_soft(sample, tmp_path) for sample in samples] if soft else samples

    return make


def with_soft(sample, folder):
    """Give a sample the soft target of a teacher that is nearly sure of the label."""
    odds = 8.0 * (sample.label == np.arange(CLASSES).reshape(-1, *[1] * len(sample.label[0].shape)))
    log_p = torch.from_numpy(odds).log_softmax(0).numpy()
    store = SoftTargetStore(str(folder / "targets.zarr"))
    store.write(sample.case.id, log_p)
    soft = store.read(sample.case.id)
    return replace(sample, soft=soft)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.fixture(params=[(8, 8), (8, 8, 8)], ids=["2D", "3D"])
def dataset(request, make_study, make_samples):
    dims = len(request.param)
    preprocess = {"window": request.param, "orientation": "RAS" if dims == 3 else None}
    study = make_study(preprocess=preprocess, augment=AUGMENT)
    shapes = [(14,) * dims, (9,) * dims, (12,) * dims]
    samples = make_samples(study, shapes, soft=True)
    return lambda **values: PatchDataset(samples, study.config, options=options(**values))


def test_labels_become_class_indices_on_the_networks_grid(make_study, make_samples):
    study = make_study(preprocess={"window": (8, 8, 8), "spacing_mm": (2, 2, 2)})
    (sample,) = make_samples(study, [(12, 10, 9)])
    assert sample.image.shape == sample.label.shape == (1, *sample.grid.shape)
    assert set(np.unique(sample.label)) == {0, 2}  # the value 5 is the third class


def test_a_patch_has_the_windows_shape_and_the_promised_types(dataset):
    patch = dataset()[3]
    window = patch["image"].shape[1:]
    assert {key: (tuple(v.shape), v.dtype) for key, v in patch.items()} == {
        "image": ((1, *window), torch.float32),
        "label": (tuple(window), torch.int64),
        "valid": (tuple(window), torch.bool),
        "soft": ((CLASSES, *window), torch.float32),
    }
    assert set(window) == {8}


def test_a_patch_is_the_same_in_any_order_and_dataset(dataset):
    one, other = dataset(), dataset(steps=99, batch=5)
    first = [one[index] for index in range(6)]
    for index in (5, 0, 3):
        assert_same(other[index], first[index])
    assert not torch.equal(first[0]["image"], first[3]["image"])


def test_batches_are_the_same_with_and_without_workers(dataset):
    alone, shared = (
        list(batches(dataset(steps=4), options=options(steps=4), first_step=0, workers=w))
        for w in (0, 2)
    )
    assert len(alone) == len(shared) == 4
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)


@pytest.fixture
def volumes(make_study, make_samples):
    """Return a maker of patches of volumes, with overrides of the training's options."""
    study = make_study(preprocess={"window": (8, 8, 8)}, augment=AUGMENT)
    samples = make_samples(study, [(14, 14, 14), (9, 9, 9), (12, 12, 12)], soft=True)
    return lambda **values: PatchDataset(samples, study.config, options=options(**values))


def drawn(make, *, first_step=0, **values):
    """Return all batches of a training."""
    chosen = options(**values)
    return list(batches(make(**values), options=chosen, first_step=first_step, workers=1))


def assert_all_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert_same(one, other)


def test_the_device_augments_to_what_workers_do(volumes, monkeypatch):
    by_workers = drawn(volumes, steps=4, augment_on="workers")
    augmented, here = PatchDataset.augmented, []

    def watched(patches, patch, index):
        here.append(index)
        return augmented(patches, patch, index)

    monkeypatch.setattr(PatchDataset, "augmented", watched)
    assert_all_same(drawn(volumes, steps=4, augment_on="device"), by_workers)
    assert here == list(range(8))  # in this process, which trains
    assert_all_same(drawn(volumes, steps=4, augment_on="device", first_step=3), by_workers[3:])


def test_on_a_cpu_workers_augment(volumes, monkeypatch):
    monkeypatch.setattr(loaders, "_augmented", None)
    assert len(drawn(volumes, steps=4)) == 4


@pytest.mark.parametrize(("worker_s", "device_s", "changes"), [(0.1, 0.0, True), (0.0, 0.1, False)])
def test_the_device_takes_over_where_training_waits_longer_for_workers(
    volumes, monkeypatch, capsys, worker_s, device_s, changes
):
    """It takes no time to train here, so that is what a patch costs a worker."""
    monkeypatch.setattr(loaders, "FAST", ("cpu",))
    monkeypatch.setattr(loaders, "SETTLED", 4)
    monkeypatch.setattr(loaders, "TRIED", 12)
    by_workers = drawn(volumes, steps=20, augment_on="workers")
    trainer, augmented, here = os.getpid(), PatchDataset.augmented, []

    def slowly(patches, patch, index):
        time.sleep(device_s if os.getpid() == trainer else worker_s)
        here.append(index)
        return augmented(patches, patch, index)

    monkeypatch.setattr(PatchDataset, "augmented", slowly)
    assert_all_same(drawn(volumes, steps=20), by_workers)
    tried = 2 * (1 + loaders.SAMPLE)
    assert here[tried:] == (list(range(2 * loaders.TRIED, 40)) if changes else [])
    assert ("augments on the device" in capsys.readouterr().out) == changes
    drawn(volumes, steps=12)  # nothing follows that it could take over
    assert "augments on the device" not in capsys.readouterr().out


def test_a_device_whose_memory_is_too_small_leaves_it_to_workers(volumes, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loaders, "FAST", ("cpu",))
    by_workers = drawn(volumes, steps=36, augment_on="workers")
    monkeypatch.setattr(loaders, "_augmented", full)
    assert_all_same(drawn(volumes, steps=36), by_workers)


@pytest.mark.parametrize("done", [1, 3, 5])
def test_resuming_goes_on_where_the_run_was(dataset, done):
    whole, rest = (
        list(batches(dataset(steps=5), options=options(steps=5), first_step=first, workers=0))
        for first in (0, done)
    )
    assert len(rest) == 5 - done
    for one, other in zip(rest, islice(whole, done, None), strict=True):
        assert_same(one, other)


def test_an_epoch_visits_every_case_once_in_an_order_of_its_own(make_study, make_samples):
    study = make_study(preprocess={"window": (4, 4), "orientation": None, "intensity": "unit"})
    samples = [
        type(sample)(sample.case, np.full_like(sample.image, number), sample.label, sample.grid)
        for number, sample in enumerate(make_samples(study, [(6, 6)] * 5))
    ]
    patches = PatchDataset(samples, study.config, options=options(steps=50))
    seen = [int(patches[index]["image"].mean().round()) for index in range(100)]
    epochs = [tuple(seen[start : start + 5]) for start in range(0, 100, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 10


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0 - 1e-9])
def test_the_foreground_share_is_kept(make_study, make_samples, share):
    study = make_study(preprocess={"window": (4, 4), "orientation": None})
    samples = make_samples(study, [(64, 64)])
    centred = PatchDataset(samples, study.config, options=options(steps=150, foreground=share))
    hits = np.mean([bool((centred[index]["label"] > 0).any()) for index in range(300)])
    assert hits == pytest.approx(share, abs=0.1)


def test_rare_classes_are_met_as_often_as_common_ones(make_study, make_samples):
    study = make_study(preprocess={"window": (1, 1), "orientation": None})
    (sample,) = make_samples(study, [(32, 32)])
    sample.label[:] = 0
    sample.label[0, :16] = 1
    sample.label[0, 31, 31] = 2
    sample = replace(sample, places=places_in(sample.label[0], "c0"))
    one = PatchDataset([sample], study.config, options=options(steps=200, foreground=0.9999))
    met = Counter(int(one[index]["label"]) for index in range(300))
    assert met[2] == pytest.approx(150, abs=40)


@pytest.mark.parametrize("shape", [(5, 9), (8, 3), (7, 7), (5, 6, 3), (9, 3, 8), (1, 1, 1)])
def test_a_small_case_is_padded_as_the_sliding_window_pads_it(make_study, make_samples, shape):
    window = (8,) * len(shape)
    orientation = "RAS" if len(shape) == 3 else None
    study = make_study(preprocess={"window": window, "orientation": orientation})
    (sample,) = make_samples(study, [shape], soft=True)
    patches = PatchDataset([sample], study.config, options=options(foreground=0.9))
    patch = patches[0]

    def seen(batch):
        inputs.append(batch.clone())  # MONAI weights the answer in place
        return batch

    inputs = []
    image = torch.from_numpy(sample.image)[None]
    sliding_window_inference(image, window, 1, seen, overlap=0.25, mode="gaussian")
    assert any(torch.allclose(patch["image"], one[0], atol=1e-5) for one in inputs)
    assert int(patch["valid"].sum()) == np.prod(np.minimum(shape, window))
    outside = ~patch["valid"]
    assert (patch["image"][0][outside].abs() < 1e-5).all()
    assert not patch["label"][outside].any()
    sure = torch.tensor([1.0, 0, 0])[:, None].expand(-1, int(outside.sum()))
    torch.testing.assert_close(patch["soft"][:, outside], sure)


def test_soft_targets_are_probabilities_that_follow_the_label(dataset):
    patches = dataset()
    for index in range(6):
        patch = patches[index]
        torch.testing.assert_close(patch["soft"].sum(0), torch.ones_like(patch["soft"][0]))
        assert (patch["soft"] > 0).all()
        agree = (patch["soft"].argmax(0) == patch["label"]).float().mean()
        assert agree > 0.9


def test_images_with_one_class_each(make_study, tmp_path):
    rng = np.random.default_rng(0)
    study = make_study(
        task=Task.CLASSIFICATION,
        preprocess={"window": (8, 8), "size": (8, 8), "orientation": None, "channels": 3},
        augment=AUGMENT,
        data={"labels": {"healthy": 0, "ill": 1}},
    )
    for number in range(4):
        picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        images.write(tmp_path / f"c{number}.png", picture)
    cases = [Case(f"c{n}", tmp_path / f"c{n}.png", n % 2, patient=str(n)) for n in range(4)]
    samples = load_samples(cases, study.config)
    said = np.log([[0.9, 0.1], [0.2, 0.8]])
    softened = [type(s)(s.case, s.image, s.label, s.grid, soft=said[s.case.label]) for s in samples]
    patches = PatchDataset(softened, study.config, options=options(steps=2, batch=4))
    (batch, _) = batches(patches, options=options(steps=2, batch=4), first_step=0, workers=0)
    assert batch["image"].shape == (4, 3, 8, 8)
    assert sorted(batch["label"].tolist()) == [0, 0, 1, 1]
    expected = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[batch["label"]]
    torch.testing.assert_close(batch["soft"], expected, atol=2e-3, rtol=0)


def test_a_batch_says_what_its_labels_cover_where_one_covers_a_part(make_study, make_samples):
    study = make_study(preprocess={"window": (8, 8, 8)})
    whole, part = make_samples(study, [(9, 9, 9)] * 2)
    assert "covered" not in PatchDataset([whole, part], study.config, options=options())[0]
    part = replace(part, case=replace(part.case, annotated=("lesion",)))
    dataset = PatchDataset([whole, part], study.config, options=options())
    (batch,) = islice(batches(dataset, options=options(), first_step=0, workers=0), 1)
    order = [dataset.case_of(i) for i in dataset.indices_of(0)]
    told = {whole.case.id: [True, True, True], part.case.id: [True, False, True]}
    assert batch["covered"].tolist() == [told[case_id] for case_id in order]


@pytest.mark.parametrize("dims", [2, 3])
def test_structures_that_overlap_travel_as_channels_with_probabilities_of_their_own(
    make_config, tmp_path, dims
):
    path = make_config(dims=dims, overlapping=True)
    window = [24] * dims  # larger than the images, so that there is an outside
    config = load(path, overrides=[f"preprocess.window={window}", "augment.flip_axes=[0]"])
    config = config.model_copy(update={"augment": AugmentOptions(**AUGMENT)})
    cases = read_datalist(Study(config, path))
    store, samples = SoftTargetStore(str(tmp_path / "soft.zarr")), []
    for sample in load_samples(cases[:2], config):
        logits = np.where(sample.label == 1, 9.0, -9.0).astype(np.float32)
        store.write(sample.case.id, logits, Activation.SIGMOID)
        samples.append(replace(sample, soft=store.read(sample.case.id)))
    dataset = PatchDataset(samples, config, options=options())
    (batch,) = islice(batches(dataset, options=options(), first_step=0, workers=0), 1)
    assert batch["label"].shape == batch["soft"].shape == (2, 2, *window)
    assert batch["label"].dtype == torch.uint8
    assert set(batch["label"].unique().tolist()) == {0, 1}
    inside = batch["valid"]
    for channel in range(2):
        soft, label = batch["soft"][:, channel], batch["label"][:, channel]
        assert (soft[~inside] < 1e-3).float().mean() > 0.99
        assert ((soft > 0.5) == (label == 1))[inside].float().mean() > 0.95
    assert (batch["label"][:, 1] <= batch["label"][:, 0]).float().mean() > 0.999
    both = (batch["label"] == 1).all(dim=1) & inside
    assert (batch["soft"].sum(dim=1)[both] > 1.05).float().mean() > 0.99


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("overlapping", [False, True])
def test_the_outside_of_what_nobody_judged_is_not_judged_either(make_config, overlapping, dims):
    path = make_config(dims=dims, overlapping=overlapping)
    window = [24] * dims  # larger than the images
    config = load(path, overrides=[f"preprocess.window={window}"])
    first, second, *_ = read_datalist(Study(config, path))
    samples = load_samples([replace(first, label=None), second], config)
    if overlapping:  # of the second, the first structure alone was judged
        label = samples[1].label.copy()
        label[1] = UNLABELLED
        case = replace(second, annotated=config.structures[:1])
        samples[1] = replace(samples[1], case=case, label=label)
    dataset = PatchDataset(samples, config, options=options())
    patches = {dataset.case_of(i): dataset[i] for i in range(2)}
    for case_id, judged in ((first.id, []), (second.id, [0])):
        label, outside = patches[case_id]["label"], ~patches[case_id]["valid"]
        for channel, values in enumerate(label if overlapping else label[None]):
            expected = 0 if channel in judged else UNLABELLED
            assert outside.any()
            assert (values[outside] == expected).all()


def test_where_structures_overlap_an_unlabelled_case_is_searched_by_its_soft_target(
    make_config, tmp_path
):
    path = make_config(dims=2, overlapping=True)
    config = load(path)
    case = replace(read_datalist(Study(config, path))[0], label=None)
    (sample,) = load_samples([case], config)
    logits = np.full(sample.label.shape, -9, np.float32)
    logits[1, 3, 4] = 9
    store = SoftTargetStore(str(tmp_path / "soft.zarr"))
    store.write("a", logits, Activation.SIGMOID)
    dataset = PatchDataset([replace(sample, soft=store.read("a"))], config, options=options())
    assert [places.tolist() for places in dataset._places[0]] == [[[3, 4]]]


@pytest.mark.parametrize(("workers", "ahead"), [(0, None), (1, 4), (3, 2), (12, 1)])
def test_more_workers_hold_hardly_more_batches_ahead(dataset, monkeypatch, workers, ahead):
    asked = {}

    def loader(_, **options):
        asked.update(options)
        return iter(())

    monkeypatch.setattr(loaders, "DataLoader", loader)
    assert not list(batches(dataset(), options=options(), first_step=0, workers=workers))
    assert (asked["num_workers"], asked["prefetch_factor"]) == (workers, ahead)
