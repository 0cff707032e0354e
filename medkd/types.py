"""The nouns of medkd: Case, Split, Volume, Task, Activation, Role, Variant, Runtime.

Arrays are channels first: an image is ``[channels, *space]``, a label map ``[*space]`` with one
integer per voxel; where structures may overlap it is ``[structures, *space]``, 0 or 1. World
coordinates are millimetres in RAS+ (NIfTI's convention); a 2D image has no world, so its affine is
the identity and one pixel counts as one millimetre.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

GRID_TOLERANCE_MM = 1e-2  # two grids closer than this are one
Temperature = float | tuple[float, ...]  # of all classes, or one a class
SEPARATOR = "|"  # of the findings of one image in a table
NO_FINDING = ("none", "no finding")  # in their place: none was found, whatever the case of letters
UNLABELLED = 255  # class index, of every voxel or of the image, where nobody has given a label


def temperatures(value: Temperature, classes: Sequence[str], name: str) -> dict[str, float]:
    """Return a temperature by name, or one a class.

    Example:
        >>> temperatures((1.2, 0.9), ("background", "liver"), "t")
        {'t/background': 1.2, 't/liver': 0.9}
    """
    if isinstance(value, float):
        return {name: value}
    return {f"{name}/{c}": t for c, t in zip(classes, value, strict=True)}


class Task(StrEnum):
    """What a network answers."""

    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"


class Activation(StrEnum):
    """What makes probabilities of a network's output."""

    SOFTMAX = "softmax"  # one of the classes is right
    SIGMOID = "sigmoid"  # each class is a question of its own


class Role(StrEnum):
    """The three models of a study."""

    TEACHER = "teacher"
    BASELINE = "baseline"  # the student trained on labels alone
    STUDENT = "student"  # the distilled student


class Variant(StrEnum):
    """The forms in which a network is released."""

    ONNX = "onnx"  # fp32, for every runtime
    OPENVINO = "openvino"  # fp32 weights; fp32 or bf16 is chosen on the device
    INT8 = "int8"  # OpenVINO with 8-bit weights and activations
    BUNDLE = "bundle"  # for MONAI's own tools

    def of(self, role: Role) -> str:
        """Return the name of its folder among the releases.

        Example:
            >>> Variant.ONNX.of(Role.TEACHER), Variant.INT8.of(Role.STUDENT)
            ('teacher', 'student-int8')
        """
        return str(role) if self is Variant.ONNX else f"{role}-{self}"


class Runtime(StrEnum):
    """What computes a release's network on a device, and how precisely."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"  # where the processor has it


@dataclass(frozen=True)
class Case:
    """One image with its reference standard, its patient and its attributes.

    Attributes:
        id: unique in the datalist.
        image: the image file; of the first modality, where each has its own.
        label: the label map's file (segmentation), the class index (classification), the names of
            the findings that are there (classification of several at once), or None: such a case is
            distilled from its soft target alone.
        patient: cases of one patient never part company in a split.
        attributes: further columns of the datalist (site, sex, age, scanner, ...).
        further: the files of the other modalities, on the grid of ``image``.
        annotated: the structures that the label map covers, or the findings that were judged; None:
            all of them. Where a map holds the background, there may be a structure that it does not
            cover.
    """

    id: str
    image: Path
    label: Path | int | tuple[str, ...] | None
    patient: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    further: tuple[Path, ...] = ()
    annotated: tuple[str, ...] | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """The files of all modalities, in the order of the channels."""
        return (self.image, *self.further)


@dataclass(frozen=True)
class Split:
    """Case ids of the three parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Volume:
    """An image on its grid.

    Attributes:
        array: ``[channels, *space]``.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres; for 2D images the identity ``[3, 3]``.
        remedies: what had to be mended to read it, and how, one line each.
        frame_uid: DICOM frame of reference that ``affine`` leads to; empty where none is known.
    """

    array: np.ndarray
    affine: np.ndarray
    remedies: tuple[str, ...] = ()
    frame_uid: str = ""

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.array.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.array.shape[1:]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each axis."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:-1, :-1], axis=0))


def without_values(
    shape: Sequence[int], affine: np.ndarray, *, channels: int = 1, frame_uid: str = ""
) -> Volume:
    """Return a volume that is only a grid: zeros that take no memory."""
    array = np.broadcast_to(np.uint8(0), (channels, *shape))
    return Volume(array, affine, frame_uid=frame_uid)


def grid_distance_mm(volume: Volume, affine: np.ndarray) -> float:
    """Return how far a grid of the volume's shape and this affine places any of its corners."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape])).reshape(volume.dims, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm((volume.affine - affine) @ homogeneous, axis=0).max())
