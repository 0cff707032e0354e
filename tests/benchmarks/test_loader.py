"""Patches a second of our loader against MONAI's CacheDataset and DataLoader, the same transforms.

Both hold the preprocessed cases in memory, cut a patch round a labelled voxel, and augment it. And
a batch that a worker augments against one that the device does, a GPU where there is one.
"""

import time

import numpy as np
import pytest
import torch

from medkd.config import Config
from medkd.data.augment import CPU, augmentation
from medkd.data.loaders import PatchDataset, _augmenting_ms, batches
from medkd.data.preprocess import preprocess
from medkd.data.samples import Sample, places_in
from medkd.options import AugmentOptions, TrainOptions
from medkd.types import Case, Volume

CASES, STEPS, BATCH, WINDOW = 16, 60, 2, (48, 64, 48)
AUGMENT = AugmentOptions(
    rotate_degrees=15, scale=0.15, contrast=0.25, gamma=0.3, noise_std=0.1, blur_sigma=1.0
)


@pytest.fixture(scope="module")
def config():
    values = {
        "study": {"name": "loader"},
        "data": {"source": "none.csv", "labels": {"one": 1, "two": 2}},
        "preprocess": {"spacing_mm": [1, 1, 1], "window": WINDOW},
        "teacher": {"model": {"name": "dynunet"}, "train": {"steps": 1}},
        "student": {"model": {"name": "plain_unet"}, "train": {"steps": 1}},
        "distill": {"losses": [{"name": "pixel_kd"}]},
    }
    return Config.model_validate(values | {"augment": AUGMENT.model_dump()})


@pytest.fixture(scope="module")
def samples(config, tmp_path_factory):
    """Cases a little larger than the window, with soft targets of three classes."""
    rng = np.random.default_rng(0)
    made, folder = [], tmp_path_factory.mktemp("cases")
    for number in range(CASES):
        image = rng.normal(size=(1, 60, 76, 60)).astype(np.float32)
        array, grid = preprocess(Volume(array=image, affine=np.eye(4)), config.preprocess)
        label = np.zeros((1, *array.shape[1:]), np.uint8)
        label[:, 20:40, 20:50, 20:40], label[:, 25:35, 30:40, 25:35] = 1, 2
        soft = np.log(rng.dirichlet(np.ones(3), size=array.shape[1:]).astype(np.float32) + 1e-6)
        case = Case(str(number), folder, folder, str(number))
        soft = np.ascontiguousarray(np.moveaxis(soft, -1, 0))
        made.append(Sample(case, array, label, grid, places_in(label[0], case.id), soft))
    return made


def ours(samples, config, workers):
    options = TrainOptions(steps=STEPS + 4, batch=BATCH, foreground=0.5)
    dataset = PatchDataset(samples, config, options=options)
    return batches(dataset, options=options, first_step=0, workers=workers)


def monai(samples, config, workers):
    from monai.data.dataset import CacheDataset
    from monai.data.utils import list_data_collate
    from monai.transforms import Compose, Lambdad, RandCropByPosNegLabeld, Transform
    from torch.utils.data import DataLoader

    class Augment(Transform):
        """The same augmentation, seeded by the generator that MONAI seeds."""

        def __init__(self):
            self.augment = augmentation(config.augment, config.preprocess, soft=True)

        def __call__(self, patch):
            maps = {key: torch.as_tensor(patch[key]).as_subclass(torch.Tensor) for key in KEYS}
            return self.augment(maps, int(np.random.randint(2**31)))  # noqa: NPY002

    KEYS = ("image", "label", "soft", "valid")  # noqa: N806
    items = [
        {
            "image": s.image,
            "label": s.label,
            "soft": s.soft,
            "valid": np.ones_like(s.label),
        }
        for s in samples
    ]
    crop = RandCropByPosNegLabeld(KEYS, label_key="label", spatial_size=WINDOW, pos=1, neg=1)
    pipeline = Compose([crop, Lambdad("soft", torch.exp), Augment()])
    dataset = CacheDataset(items, pipeline, cache_rate=1.0, num_workers=0, progress=False)
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=list_data_collate,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def patches_a_second(stream):
    for _ in range(4):
        next(stream)
    start = time.perf_counter()
    for _ in range(STEPS):
        batch = next(stream)
    assert batch["image"].shape == (BATCH, 1, *WINDOW)
    assert torch.as_tensor(batch["soft"]).shape == (BATCH, 3, *WINDOW)
    return STEPS * BATCH / (time.perf_counter() - start)


@pytest.mark.parametrize("workers", [0, 1])
def test_patches_a_second(samples, config, workers):
    found = {f.__name__: patches_a_second(f(samples, config, workers)) for f in (ours, monai)}
    print(
        f"\npatches of {'x'.join(map(str, WINDOW))} with a soft target, {workers} workers: "
        f"medkd {found['ours']:.1f} a second, MONAI {found['monai']:.1f}: "
        f"{found['ours'] / found['monai']:.2f} times"
    )


def test_a_batch_augmented_by_a_worker_and_on_the_device(samples, config):
    there = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if there else torch.device("cpu")
    dataset = PatchDataset(samples, config, options=TrainOptions(steps=STEPS, batch=BATCH))
    steps, threads = [list(dataset.indices_of(step)) for step in range(24)], torch.get_num_threads()
    torch.set_num_threads(1)
    worker_ms = _augmenting_ms(dataset, steps, CPU)
    torch.set_num_threads(threads)
    device_ms = _augmenting_ms(dataset, steps, device)
    print(
        f"\na batch of {BATCH} patches of {'x'.join(map(str, WINDOW))}: {worker_ms:.1f} ms in a "
        f"worker, {device_ms:.1f} ms on {device} with {threads} threads"
    )
