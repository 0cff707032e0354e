"""Source: the images that an answer is about, and what all answers about them share."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from medkd import __version__
from medkd.data.dicom.header import read_dataset
from medkd.data.memory import pieces
from medkd.device.manifest import Manifest
from medkd.errors import DataError
from medkd.options import Code, ReadingOptions
from medkd.study import digest
from medkd.types import Volume

OWN_SCHEME = "99MEDKD"  # of classes that the study gives no code
OWN = {
    "probability": ("calibrated-p", "Calibrated probability"),
    "guard": ("input-guard", "Likeness to the validated data"),
    "mended": ("mended", "Mended while it was read"),
    "like": ("like", "Like the validated data"),
    "unlike": ("unlike", "Unlike the validated data"),
    "possible": ("conformal-set", "Possible class"),
    "found": ("operating-point", "At the operating point"),
    "present": ("present", "Present"),
    "absent": ("absent", "Absent"),
}
# attributes of type 2 that anonymisers remove, although even an empty one must be there
EXPECTED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class Source:
    """The images of one series, without their pixels.

    Attributes:
        headers: of all files.
        content: digest of the volume that was read of them.
        further: UIDs of the images of other modalities, which the answer is about as well.
        is_whole: whether their sender had finished.
    """

    headers: tuple[Dataset, ...]
    content: str
    further: tuple[str, ...] = ()
    is_whole: bool = True

    @classmethod
    def read(
        cls,
        files: Sequence[Path],
        volume: Volume,
        options: ReadingOptions | None = None,
        *,
        further: Sequence[Path] = (),
    ) -> "Source":
        """Read the headers of a series.

        Args:
            files: its own.
            volume: that was read of them.
            options: how much memory a file's attributes may take.
            further: the files of other modalities.

        Raises:
            DataError: a file is no DICOM image, or does not say which.
        """
        most = (options or ReadingOptions()).memory_bytes
        headers, others = ([_header(file, most) for file in each] for each in (files, further))
        uids = tuple(str(header.SOPInstanceUID) for header in others)
        return cls(tuple(headers), _content(volume), uids)

    def uid(self, manifest: Manifest, kind: str) -> str:
        """Return a UID that is the same whenever this release answers for these images.

        Another where they have other pixels, or another patient, under their old UIDs, as after a
        correction; and where they may be a part of their series, not all of it.
        """
        images = sorted([*(str(header.SOPInstanceUID) for header in self.headers), *self.further])
        said = [self.content, str(self.headers[0].get("PatientID") or "")]
        part = [] if self.is_whole else ["a transfer that broke off"]
        return generate_uid(entropy_srcs=[release_id(manifest), kind, *images, *said, *part])

    def equipment(self, manifest: Manifest, kind: str) -> dict[str, Any]:
        """Return the arguments of highdicom's objects that say what made them and which."""
        return {
            "series_instance_uid": self.uid(manifest, f"{kind} series"),
            "sop_instance_uid": self.uid(manifest, kind),
            "series_number": 9000 + int(self.headers[0].get("SeriesNumber") or 0) % 1000,
            "instance_number": 1,
            "manufacturer": "medkd",
        }


def release_id(manifest: Manifest) -> str:
    """Return 16 hex digits that stand for a release and all that its answers depend on."""
    return digest(manifest.model_dump(mode="json"))


def algorithm(manifest: Manifest) -> tuple[str, str]:
    """Return name and version of a release, for the identification of algorithms."""
    name = f"medkd {manifest.study.get('name', '')} {manifest.role}".replace("  ", " ")
    return name[:64], f"{__version__} {release_id(manifest)}"


def concept(code: Code | None, name: str) -> Any:  # noqa: ANN401
    """Return a coded concept; a name without a code gets one of medkd's own scheme."""
    from highdicom.sr import CodedConcept

    if code:
        return CodedConcept(code.value, code.scheme, code.meaning)
    return CodedConcept(name if len(name) <= 16 else digest(name), OWN_SCHEME, name[:64])


def own_concept(key: str) -> Any:  # noqa: ANN401
    """Return one of medkd's own concepts."""
    from highdicom.sr import CodedConcept

    value, meaning = OWN[key]
    return CodedConcept(value, OWN_SCHEME, meaning)


def save(dataset: Dataset, path: Path) -> None:
    """Write a DICOM file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    dataset.save_as(temporary, enforce_file_format=True)
    temporary.replace(path)


def quietly() -> None:
    """Silence the DICOM libraries' warnings: they repeat attributes, which may name a patient."""
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")


def _content(volume: Volume) -> str:
    """Return the digest of an image's values and place, however its files were encoded."""
    grid = f"{volume.array.dtype} {volume.array.shape} {volume.affine.tolist()}"
    made = hashlib.sha256(grid.encode())
    for piece in pieces(volume.array):  # a large volume has no second copy
        made.update(np.ascontiguousarray(piece).data)
    return made.hexdigest()


def _header(file: Path, memory_bytes: int) -> Dataset:
    quietly()
    header = read_dataset(file, memory_bytes=memory_bytes, all_attributes=True)
    missing = [key for key in ("SOPInstanceUID", "SOPClassUID") if key not in header]
    if missing:
        raise DataError(f"{file}: without {missing[0]} no DICOM object can refer to it")
    for keyword in EXPECTED:
        if keyword not in header:
            setattr(header, keyword, None)
    if str(header.get("SpecificCharacterSet")).startswith("ISO 2022"):  # alone it extends nothing
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
    if "FrameOfReferenceUID" not in header:  # anonymisers remove it; a series has one frame
        header.FrameOfReferenceUID = header.SeriesInstanceUID
    _share(header)
    return header


def _share(header: Dataset) -> None:
    """Say once what all frames of a regular volume have in common, where highdicom looks for it."""
    shared = header.get("SharedFunctionalGroupsSequence")
    frames = header.get("PerFrameFunctionalGroupsSequence")
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if shared and frames and keyword not in shared[0] and keyword in frames[0]:
            setattr(shared[0], keyword, frames[0].get(keyword))
