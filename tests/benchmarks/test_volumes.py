"""Patches a second from a cohort on disk, against zarr, MONAI's datasets and nnU-Net's way.

Volumes of 256 x 256 x 160 are preprocessed already; each contender stores them its own way, then
cuts patches round labelled voxels, in a process of its own. MEDKD_VOLUMES says how many (200: 30
GB of disk, or 10 GB of memory for the CacheDataset). blosc2 is optional.
"""

import json
import multiprocessing
import os
import resource
import shutil
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

SHAPE, PATCH, PATCHES = (256, 256, 160), (96, 96, 96), 200
COUNT = int(os.environ.get("MEDKD_VOLUMES", "24"))
MOST_CACHED = 200  # volumes of 50 MB


@cache
def noise():
    return np.random.default_rng(0).normal(0, 20, SHAPE).astype(np.float32)


def volume(number):
    """Return an image, as a scanner's whole numbers are after a z-score, and a label map."""
    from scipy import ndimage

    rng = np.random.default_rng(number)
    coarse = rng.normal(size=[n // 8 for n in SHAPE]).astype(np.float32)
    smooth = ndimage.zoom(coarse, 8, order=1)
    counts = np.rint(200 * smooth + np.roll(noise(), rng.integers(10**6)))
    image = ((counts - counts.mean()) / counts.std()).astype(np.float32)[None]
    return image, (image > 1.5).astype(np.uint8)


class Medkd:
    """Mapped .npy files, and places of each class."""

    def store(self, folder, numbers):
        from medkd.data.samples import places_in
        from medkd.data.volumes import VolumeStore

        for number in numbers:
            image, label = volume(number)
            places = places_in(label[0], str(number))[0]
            arrays = {"image": image, "label": label, "places": places}
            VolumeStore(folder).write(str(number), arrays, said={})

    def patches(self, folder, numbers):
        from medkd.data.volumes import VolumeStore

        cases = [VolumeStore(folder).read(str(number)).arrays for number in numbers]
        rng = np.random.default_rng(0)
        while True:
            case = cases[rng.integers(len(cases))]
            cut = (slice(None), *round_place(case["places"], rng))
            yield np.array(case["image"][cut]), np.array(case["label"][cut])


class Zarr:
    """zarr in chunks of 64 a side, compressed as it does by itself."""

    def store(self, folder, numbers):
        import zarr

        for number in numbers:
            group = zarr.open_group(folder / str(number), mode="w")
            image, label = volume(number)
            for name, array in (("image", image), ("label", label)):
                group.create_array(name, data=array, chunks=(1, 64, 64, 64))
            group.attrs["places"] = places(label)

    def patches(self, folder, numbers):
        import zarr

        groups = [zarr.open_group(folder / str(number), mode="r") for number in numbers]
        known = [np.array(group.attrs["places"]) for group in groups]
        rng = np.random.default_rng(0)
        while True:
            at = rng.integers(len(groups))
            cut = (slice(None), *round_place(known[at], rng))
            yield groups[at]["image"][cut], groups[at]["label"][cut]


class Persistent:
    """MONAI's PersistentDataset: whole volumes pickled by torch, cut after reading."""

    def dataset(self, folder, numbers):
        from monai.data.dataset import PersistentDataset
        from monai.transforms import Compose

        return PersistentDataset(list(numbers), Compose([make(), crop()]), cache_dir=folder)

    def store(self, folder, numbers):
        dataset = self.dataset(folder, numbers)
        for index in range(len(dataset)):
            dataset._cachecheck(dataset.data[index])

    def patches(self, folder, numbers):
        dataset = self.dataset(folder, numbers)
        rng = np.random.default_rng(0)
        while True:
            patch = dataset[int(rng.integers(len(dataset)))]
            patch = patch[0] if isinstance(patch, list) else patch
            yield patch["image"], patch["label"]


class Cached(Persistent):
    """MONAI's CacheDataset: all volumes in memory."""

    def dataset(self, folder, numbers):
        from monai.data.dataset import CacheDataset
        from monai.transforms import Compose

        del folder
        pipeline = Compose([make(), crop()])
        return CacheDataset(list(numbers), pipeline, num_workers=0, progress=False)

    def store(self, folder, numbers):
        del numbers
        folder.mkdir()


class Blosc2:
    """blosc2 in blocks of the patch's size, mapped, as nnU-Net v2 stores its cases."""

    def store(self, folder, numbers):
        import blosc2

        folder.mkdir()
        blosc2.set_nthreads(1)
        zstd = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
        for number in numbers:
            image, label = volume(number)
            for name, array in (("image", image), ("label", label)):
                blocks = {"chunks": (1, 128, 128, 128), "blocks": (1, 32, 32, 32)}
                path = str(folder / f"{number}-{name}.b2nd")
                blosc2.asarray(array, urlpath=path, cparams=zstd, **blocks)
            (folder / f"{number}.json").write_text(json.dumps(places(label)))

    def patches(self, folder, numbers):
        import blosc2

        blosc2.set_nthreads(1)
        known = {n: np.array(json.loads((folder / f"{n}.json").read_text())) for n in numbers}
        rng = np.random.default_rng(0)
        while True:
            number = list(numbers)[rng.integers(len(numbers))]
            cut = (slice(None), *round_place(known[number], rng))
            files = [folder / f"{number}-{name}.b2nd" for name in ("image", "label")]
            yield tuple(blosc2.open(str(f), mode="r", mmap_mode="r")[cut] for f in files)


def round_place(known, rng):
    """Return the patch round one of some places, within the volume."""
    centre = known[rng.integers(len(known))]
    corner = np.clip(centre - np.array(PATCH) // 2, 0, np.array(SHAPE) - PATCH)
    return tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))


def places(label):
    from medkd.data.samples import places_in

    return places_in(label[0], "a case")[0].tolist()


def make():
    """Return the deterministic transform, whose result MONAI caches."""
    from monai.transforms import Lambda

    return Lambda(lambda number: dict(zip(("image", "label"), volume(number), strict=True)))


def crop():
    from monai.transforms import RandCropByPosNegLabeld

    keys = ("image", "label")
    return RandCropByPosNegLabeld(keys, label_key="label", spatial_size=PATCH, pos=1, neg=0)


def run(kind, folder, numbers, queue):
    """Store, then cut patches; tell how long a patch took, the memory and the disk."""
    contender = kind()
    noise()
    start = time.perf_counter()
    contender.store(folder, numbers)
    stored_s = time.perf_counter() - start
    stream = contender.patches(folder, numbers)
    shapes = [part.shape for part in next(stream)]
    assert shapes == [(1, *PATCH)] * 2
    start = time.perf_counter()
    for _ in range(PATCHES):
        next(stream)
    seconds = time.perf_counter() - start
    own = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines()
           if line.startswith("RssAnon")]  # fmt: skip
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put((stored_s, PATCHES / seconds, int(own[0]) / 2**20, peak / 2**20, disk / 2**30))


@pytest.mark.parametrize("count", sorted({max(1, COUNT // 4), COUNT}))
def test_patches_a_second_from_disk(tmp_path, count):
    kinds = [Medkd, Zarr, Persistent] + ([Cached] if count <= MOST_CACHED else [])
    try:
        import blosc2  # noqa: F401
    except ImportError:
        print("\nblosc2 is not installed: nnU-Net's way is left out")
    else:
        kinds.append(Blosc2)
    print(f"\n{count} volumes of {'x'.join(map(str, SHAPE))}, patches of {PATCH[0]} a side")
    context = multiprocessing.get_context("fork")
    for kind in kinds:
        queue = context.Queue()
        process = context.Process(target=run, args=(kind, tmp_path / "store", range(count), queue))
        process.start()
        stored_s, rate, memory, peak, disk = queue.get(timeout=3000)
        process.join()
        shutil.rmtree(tmp_path / "store")
        print(
            f"  {kind.__name__:10s} {rate:7.1f} patches a second; memory of its own "
            f"{memory:.2f} GiB, peak {peak:.2f}; disk {disk:.2f} GiB; stored in {stored_s:.0f} s"
        )
