"""Decoding: the stored values of frames, each syntax by a decoder that survives what it is given.

GDCM alone decodes lossless JPEG and 12 bits of lossy JPEG here, and it ends the process over a
damaged stream. It is run in a process of its own, one for all files of a series, which starts with
the first that needs it.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from pydicom import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medkd.data.dicom.codestream import refuse_bombs
from medkd.data.dicom.frames import count_of
from medkd.data.dicom.header import read_dataset, refusing
from medkd.errors import DataError
from medkd.extras import installing

GDCM, GDCM_FILE = "gdcm", "gdcm, a file at once"  # pydicom keeps GDCM from 12 bits
DECODERS = {  # pydicom's names of them
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), "pillow"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), "pylibjpeg"),
    **dict.fromkeys((HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "pylibjpeg"),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), GDCM),
    RLELossless: "pylibjpeg",
}
ISOLATED = {GDCM, GDCM_FILE}
LIBRARIES = {GDCM: "gdcm", GDCM_FILE: "gdcm", "pyjpegls": "jpeg_ls", "pylibjpeg": "pylibjpeg"}
MOST_BITS_OF_PILLOW = 8
LONGEST_S = 600.0  # that the other process may take for a file
PACKAGES = str(Path(__file__).parents[3])  # the folder that medkd lies in
FRAME, END, ERROR = b"F", b"D", b"E"  # what the other process sends


class Decoding:
    """Decodes files one after the other; on leaving, the other process is gone."""

    def __init__(self, *, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoding":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def frames(self, file: Path) -> Iterator[np.ndarray]:
        """Yield the stored values of a file's frames, ``[rows, columns]``; ``[…, 3]`` of colours.

        Colours are RGB.

        Raises:
            DataError: they cannot be decoded, would take more memory than they should, or are more
                or fewer than the file says.
        """
        with refusing(file):
            dataset = read_dataset(file, memory_bytes=self._memory_bytes, with_pixels=True)
            refuse_bombs(file, dataset, memory_bytes=self._memory_bytes)
            _refuse_without_library(file, dataset)
            isolated = _decoder(dataset) in ISOLATED
            found = self._isolated(file) if isolated else _decoded(file, dataset)
            yield from self._as_many(found, count_of(file, dataset), file)

    def _as_many(
        self, frames: Iterator[np.ndarray], count: int, file: Path
    ) -> Iterator[np.ndarray]:
        """Pass on as many frames as a file says it has: a decoder ends where its stream does."""
        found = 0
        for found, frame in enumerate(frames, start=1):
            if found > count:
                self._stop()  # it would go on sending
                raise DataError(
                    f"{file}: says it has {count} frames and holds more; export it again"
                )
            yield frame
        if found < count:
            raise DataError(
                f"{file}: truncated, says it has {count} frames and holds {found}; copy it again"
            )

    def _isolated(self, file: Path) -> Iterator[np.ndarray]:
        """Have the other process decode a file."""
        if self._process is None:
            # -P: what lies in the working folder is data, and none of it is to be imported
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "medkd.data.dicom.decoding"],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([PACKAGES, *_given_path()])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        said, asked = self._process.stdout, self._process.stdin
        assert said
        assert asked
        question = {"file": str(file.resolve()), "memory_bytes": self._memory_bytes}
        asked.write(json.dumps(question).encode() + b"\n")
        asked.flush()
        deadline = threading.Timer(LONGEST_S, self._process.kill)
        deadline.start()
        try:
            while (sign := said.read(1)) == FRAME:
                yield _received(said)
        finally:
            deadline.cancel()
        if sign == ERROR:
            told, private = json.loads(said.readline())
            raise DataError(told.replace(question["file"], str(file)), private=private)
        if sign != END:
            self._stop()
            raise DataError(f"{file}: its compressed pixels are damaged; copy it again")


def _given_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _decoded(file: Path, dataset: Dataset) -> Iterator[np.ndarray]:
    """Decode a file in this process."""
    try:
        if _decoder(dataset) == GDCM_FILE:
            yield from _decoded_by_gdcm(file, dataset)
        else:
            yield from iter_pixels(dataset, decoding_plugin=_decoder(dataset))
    except (RuntimeError, NotImplementedError, ValueError, AttributeError) as error:
        syntax, reason = dataset.file_meta.TransferSyntaxUID, " ".join(str(error).split())
        why = "" if isinstance(error, RuntimeError) else f": {reason}"
        raise DataError(
            f"{file}: its pixels ({syntax.name}) cannot be decoded{why}; copy it again, or export "
            f"it uncompressed",
            private=(reason, *([] if syntax.is_valid else [syntax.name])),
        ) from None


def _refuse_without_library(file: Path, dataset: Dataset) -> None:
    library = LIBRARIES.get(_decoder(dataset))
    if library and find_spec(library) is None:
        syntax = dataset.file_meta.TransferSyntaxUID
        raise DataError(f"{file}: its pixels ({syntax.name}) need {library}; {installing('dicom')}")


def _decoder(dataset: Dataset) -> str:
    """Return the name of the decoder of its syntax; nothing where there is nothing to decode."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEGExtended12Bit and int(dataset.get("BitsStored") or 8) > MOST_BITS_OF_PILLOW:
        return GDCM_FILE
    return DECODERS.get(syntax, "")


def _decoded_by_gdcm(file: Path, dataset: Dataset) -> np.ndarray:
    """Decode a grey file with GDCM itself: ``[frames, rows, columns]``."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(file))
    if not reader.Read():
        raise RuntimeError("GDCM cannot read it")
    content = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    dtype = "<i2" if dataset.PixelRepresentation else "<u2"
    return np.frombuffer(content, dtype).reshape(-1, int(dataset.Rows), int(dataset.Columns))


def _send(frame: np.ndarray, stream: IO[bytes]) -> None:
    told = {"dtype": frame.dtype.str, "shape": frame.shape}
    stream.write(FRAME + json.dumps(told).encode() + b"\n" + frame.tobytes())


def _received(stream: IO[bytes]) -> np.ndarray:
    told = json.loads(stream.readline())
    dtype = np.dtype(told["dtype"])
    content = stream.read(math.prod(told["shape"]) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(told["shape"])


def serve() -> None:
    """Decode the files that are asked for on stdin, and send their frames to stdout."""
    out = sys.stdout.buffer
    for line in sys.stdin:
        asked = json.loads(line)
        file = Path(asked["file"])
        try:
            with refusing(file):
                dataset = read_dataset(file, memory_bytes=asked["memory_bytes"], with_pixels=True)
                for frame in _decoded(file, dataset):
                    _send(frame, out)
            out.write(END)
        except DataError as error:
            out.write(ERROR + json.dumps([str(error), error.private]).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    serve()
