"""What storing a teacher's answers costs and loses: bytes a voxel, divergence, time of a patch.

On a real teacher: MEDKD_TEACHER names the folder of its checkpoint (runs/STUDY/teacher/fold-0) and
MEDKD_IMAGES a folder of NIfTI images that it was made for.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from scipy.special import log_softmax

from medkd.data.preprocess import preprocess
from medkd.data.reader import read_image
from medkd.device.window import predict_windows
from medkd.distill.soft_targets import ZSTD_LEVEL, chunks, decode, encode
from medkd.models.checkpoint import load_checkpoint
from medkd.options import PreprocessOptions

CASES, PATCHES, SIDE = 8, 100, 32
LEAST = -24.0  # where even steps of 8 bits are clamped
ENCODINGS = {
    "float32": (lambda x: x, lambda codes: codes),
    "float16": (lambda x: x.astype(np.float16), lambda codes: codes.astype(np.float32)),
    "uint8, even steps to -24": (
        lambda x: np.rint(255 * np.clip(x, LEAST, 0) / LEAST).astype(np.uint8),
        lambda codes: codes * np.float32(LEAST / 255),
    ),
    "medkd, by the root": (encode, decode),
}


@pytest.fixture(scope="module")
def answers():
    """Log-probabilities ``[classes, *space]`` of a calibrated teacher."""
    if "MEDKD_TEACHER" not in os.environ:
        pytest.skip("MEDKD_TEACHER is not set")
    network, said = load_checkpoint(Path(os.environ["MEDKD_TEACHER"]))
    network.eval()
    options = PreprocessOptions.model_validate(said.preprocess)

    @torch.no_grad()
    def ask(windows):
        return network(torch.from_numpy(windows)).numpy()

    found = []
    for path in sorted(Path(os.environ["MEDKD_IMAGES"]).glob("*.nii.gz"))[:CASES]:
        array, _ = preprocess(read_image(path), options)
        logits = predict_windows(ask, array, window=options.window, overlap=options.overlap)
        found.append(log_softmax(logits / said.temperature, axis=0).astype(np.float32))
    return found


def stored(codes):
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=codes.shape,
        dtype=codes.dtype,
        chunks=chunks(codes.shape),
        compressors=zarr.codecs.ZstdCodec(level=ZSTD_LEVEL),
    )
    array[...] = codes
    return array


def lost(exact, kept, temperature):
    """Divergence of what was kept over the entropy of what was said, both tempered."""
    log_p, log_q = (log_softmax(x / temperature, axis=0) for x in (exact, kept))
    p = np.exp(log_p)
    return (p * (log_p - log_q)).sum() / -(p * log_p).sum()


def patch_ms(arrays, read):
    rng, began = np.random.default_rng(0), time.perf_counter()
    for number in range(PATCHES):
        array = arrays[number % len(arrays)]
        corner = [rng.integers(max(1, n - SIDE + 1)) for n in array.shape[1:]]
        read(array[(slice(None), *(slice(c, c + SIDE) for c in corner))])
    return 1000 * (time.perf_counter() - began) / PATCHES


def test_encodings(answers):
    voxels = sum(answer[0].size for answer in answers)
    print(f"\n{len(answers)} cases, {voxels} voxels of {len(answers[0])} classes")
    for name, (write, read) in ENCODINGS.items():
        codes = [write(answer) for answer in answers]
        arrays = [stored(each) for each in codes]
        kept = [read(each) for each in codes]
        size = sum(array.nbytes_stored() for array in arrays) / voxels
        worst = {t: max(map(lost, answers, kept, [t] * len(kept))) for t in (1.0, 4.0)}
        took_ms = patch_ms(arrays, read)
        print(
            f"  {name}: {size:.2f} bytes a voxel; loses {worst[1.0]:.1e} of the entropy at T = 1, "
            f"{worst[4.0]:.1e} at T = 4; a patch of {SIDE} a side in {took_ms:.2f} ms"
        )
