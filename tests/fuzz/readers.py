"""Fuzz the readers: mutate real files by the thousand, and count what becomes of them.

    MEDKD_DATA=… nice -n 19 python tests/fuzz/readers.py --inputs 20000

Every input has to give a volume or one DataError that names its file, within the memory that the
config allows and a few seconds. Inputs are read in a process of their own, so that a decoder that
crashes is counted and named, and not the end. Input ``n`` is the same in every run.
"""

import argparse
import collections
import functools
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medkd.types import Volume

MEMORY_GIB = 0.25
SECONDS = 20
KINDS = ("dicom", "nifti", "picture", "npz", "reference")
LARGEST_SEED = 600_000  # bytes
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)


def seeds(root: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Return sound and awkward files by kind, with the suffix to read them by."""
    dicom = [*sorted((root / "dicom/single").glob("*.dcm"))]
    for folder in sorted((root / "dicom/series").iterdir()):
        dicom.append(sorted((folder / "dicom").iterdir())[0])
    outlines = [root / "dicom/series/sts_008_mr/rtstruct.dcm"]
    outlines += [root / "dicom/single/seg_image_ct_binary.dcm"] * 2
    nifti = sorted((root / "nifti_odd").rglob("*.nii*"))
    return {
        "dicom": [(".dcm", p.read_bytes()) for p in dicom if p.stat().st_size < LARGEST_SEED],
        "nifti": [
            (".nii.gz" if p.name.endswith("gz") else ".nii", p.read_bytes())
            for p in nifti
            if p.stat().st_size < LARGEST_SEED
        ],
        "picture": pictures(),
        "npz": archives(),
        "reference": [(".dcm", p.read_bytes()) for p in outlines],
    }


def pictures() -> list[tuple[str, bytes]]:
    """Return PNG, JPEG, TIFF and BMP of several depths and compressions."""
    from PIL import Image

    grey = np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)
    colour = np.dstack([grey, grey.T[:60, :50] if grey.T.shape == grey.shape else grey, 255 - grey])
    found = []
    for suffix, kind, array, options in (
        (".png", "PNG", grey, {}),
        (".png", "PNG", colour, {}),
        (".png", "PNG", grey.astype(np.uint16) * 99, {}),
        (".jpg", "JPEG", grey, {}),
        (".jpg", "JPEG", colour, {"progressive": True}),
        (".tif", "TIFF", grey, {"compression": "tiff_lzw"}),
        (".tif", "TIFF", colour, {"compression": "tiff_adobe_deflate"}),
        (".tif", "TIFF", grey.astype(np.float32), {}),
        (".tif", "TIFF", colour, {"compression": "jpeg"}),
        (".bmp", "BMP", colour, {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind, **options)
        found.append((suffix, buffer.getvalue()))
    return found


def archives() -> list[tuple[str, bytes]]:
    """Return npz files, stored and compressed."""
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, train_images=np.arange(600, dtype=np.uint8).reshape(6, 10, 10), b=np.eye(4))
        found.append((".npz", buffer.getvalue()))
    return found


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change a file at one to four places, most of them in its header and most without a shift."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        reach = min(len(changed), 2048) if rng.random() < 0.7 else len(changed)
        if reach:
            change = rng.choices(CHANGES, weights=WEIGHTS)[0]
            change(changed, rng.randrange(reach), rng)
    return bytes(changed)


def flip(content: bytearray, at: int, rng: random.Random) -> None:
    """Turn one bit."""
    content[at] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, at: int, rng: random.Random) -> None:
    """Put noise in place of some bytes."""
    count = min(rng.randint(1, 8), len(content) - at)
    content[at : at + count] = rng.randbytes(count)


def exaggerate(content: bytearray, at: int, rng: random.Random) -> None:
    """Put a number in place that lengths and counts go wrong with."""
    width = min(rng.choice((1, 2, 4)), len(content) - at)
    value = rng.choice(INTERESTING) & (2 ** (8 * width) - 1)
    content[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def delete(content: bytearray, at: int, rng: random.Random) -> None:
    """Take some bytes out."""
    del content[at : at + rng.randint(1, 8)]


def repeat(content: bytearray, at: int, rng: random.Random) -> None:
    """Put a piece of the file in once more."""
    other = rng.randrange(len(content))
    content[at:at] = content[other : other + rng.randint(1, 128)]


def end(content: bytearray, at: int, rng: random.Random) -> None:
    """Cut the file off."""
    del content[max(at, rng.randrange(len(content))) :]


CHANGES = (flip, overwrite, exaggerate, delete, repeat, end)
WEIGHTS = (5, 4, 5, 1, 1, 1)


def one(number: int, files: dict[str, list[tuple[str, bytes]]], folder: Path) -> tuple[str, str]:
    """Read input ``number`` and return its kind and what became of it."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)] if number % 2 else rng.choice(("dicom", "nifti"))
    suffix, content = rng.choice(files[kind])
    path = folder / f"input{suffix}"
    path.write_bytes(mutate(content, rng))
    return kind, verdict(kind, path)


def verdict(kind: str, path: Path) -> str:
    """Return ``read``, ``refused``, or what is wrong with the reader."""
    from medkd.errors import DataError

    try:
        read(kind, path)
    except DataError as error:
        said = str(error)
        if not said.startswith(str(path)) or len(said.splitlines()) != 1:
            return f"wrong error: {said[:200]!r}"
        return "refused"
    except BaseException as error:  # noqa: BLE001  that is what is looked for
        return f"escaped: {type(error).__name__}: {str(error)[:200]}"
    return "read"


def read(kind: str, path: Path) -> None:
    """Read a file as medkd does."""
    from medkd.data.dicom.reference import read_reference
    from medkd.data.npz import read_arrays
    from medkd.data.reader import read_image, read_label
    from medkd.options import ReadingOptions

    options = ReadingOptions(memory_gib=MEMORY_GIB, overlap="last")
    if kind == "npz":
        read_arrays(path, wanted=bool, memory_bytes=options.memory_bytes)
    elif kind == "reference":
        names = {"GTV_Mass_MR_T1": 2, "first segment": 4}
        is_seg = b"first segment" in path.read_bytes()
        read_reference(path, grid_of(is_segmentation=is_seg), names, options)
    else:
        volume = read_image(path, options)
        assert volume.array.dtype.kind in "iufb"
        assert np.isfinite(volume.affine).all()
        read_label(path, options)


@functools.cache
def grid_of(*, is_segmentation: bool) -> "Volume":
    """Return the grid of the image that a reference was drawn on."""
    from medkd.data.dicom.volume import read_grid
    from medkd.types import without_values

    if not is_segmentation:
        return read_grid(Path(os.environ["MEDKD_DATA"]) / "dicom/series/sts_008_mr/dicom")
    lps = np.array(
        [[0, 0, 0.488281, -125], [0, 0.488281, 0, -128.100006], [1.25, 0, 0, 103.019997]]
    )
    return without_values((3, 16, 16), np.vstack([np.diag([-1, -1, 1]) @ lps, [0, 0, 0, 1]]))


def work(start: int, stop: int, root: Path) -> None:
    """Read inputs one after the other; each is announced before it is read."""
    files = seeds(root)
    said = sys.stdout
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, stop):
            print(json.dumps({"starts": number}), file=said, flush=True)
            signal.alarm(SECONDS)
            began = time.perf_counter()
            kind, found = one(number, files, Path(folder))
            signal.alarm(0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            line = {"number": number, "kind": kind, "found": found, "peak_mib": peak}
            line["seconds"] = round(time.perf_counter() - began, 2)
            print(json.dumps(line), file=said, flush=True)


def main() -> int:
    """Read as many inputs as asked for and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    root = Path(os.environ["MEDKD_DATA"])
    stop = given.start + given.inputs
    if given.worker is not None:
        work(given.worker, stop, root)
        return 0
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad: list[str] = []
    slowest = peak = 0.0
    number = given.start
    while number < stop:
        command = [sys.executable, __file__, "--inputs", str(given.inputs)]
        command += ["--start", str(given.start), "--worker", str(number)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdout
            for text in worker.stdout:
                line = json.loads(text)
                if "starts" in line:
                    number = line["starts"]
                    continue
                found = line["found"]
                counts[line["kind"], found.partition(":")[0]] += 1
                slowest, peak = max(slowest, line["seconds"]), max(peak, line["peak_mib"])
                if found not in {"read", "refused"}:
                    bad.append(f"{line['number']} {line['kind']}: {found}")
                number = line["number"] + 1
        if number < stop:
            how = "hung" if worker.returncode == -signal.SIGALRM else f"died {worker.returncode}"
            bad.append(f"{number}: {how}")
            counts["?", how] += 1
            number += 1
    for (kind, found), count in sorted(counts.items()):
        print(f"{kind:10} {found:12} {count:7}")
    print(f"slowest {slowest:.1f} s, peak {peak:.0f} MiB, bad {len(bad)} of {given.inputs}")
    print("\n".join(bad[:50]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
