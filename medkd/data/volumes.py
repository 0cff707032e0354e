"""Volumes: arrays of preprocessed cases on disk, mapped into memory.

They are kept as plain ``.npy`` files: compressed, a patch of 96 x 96 x 96 voxels takes 8 (blosc2,
as nnU-Net keeps them) to 19 times (zarr) as long to read where all fit into the system's cache, and
7 times (zarr) where 200 volumes hardly do (tests/benchmarks/test_volumes.py). What is mapped is
cached by the system, once for all processes that read it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAID = "case.json"


@dataclass(frozen=True)
class Kept:
    """What is stored of one case: arrays by name, mapped and read only, and what is said of it."""

    arrays: dict[str, np.ndarray]
    said: dict[str, Any]


@dataclass(frozen=True)
class VolumeStore:
    """A folder with one folder a key.

    A key stands for all that the arrays were made from, and is there once it is whole. Studies may
    share a store, and processes write different keys, or the same, at once.
    """

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether anything was ever stored."""
        return self.folder.is_dir()

    def __contains__(self, key: str) -> bool:
        return (self.folder / key).is_dir()

    def write(self, key: str, arrays: Mapping[str, np.ndarray], *, said: Mapping[str, Any]) -> None:
        """Write arrays by name, and JSON values; they appear under ``key`` together."""
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        (partial / SAID).write_text(json.dumps(said))
        try:
            partial.rename(self.folder / key)
        except OSError:  # another process was faster with the same
            shutil.rmtree(partial)

    def read(self, key: str) -> Kept:
        """Map the arrays of a key.

        Raises:
            FileNotFoundError: the key is not there.
        """
        folder = self.folder / key
        arrays = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
            for path in sorted(folder.glob("*.npy"))
        }
        return Kept(arrays, json.loads((folder / SAID).read_text()))
