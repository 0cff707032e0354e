"""Layout: what a folder of data holds, case by case, once its arrangement is understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medkd.data.nifti import pair_of
from medkd.data.quality.examine import Overlap
from medkd.types import Task


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        case: its id.
        image: the image's file or DICOM folder.
        label: the label map's file, a class index, findings, or None.
        patient: empty where the layout does not tell.
        part: train, validation or test, where the layout says so.
        attributes: whatever else it tells.
        further: the files of further modalities.
    """

    case: str
    image: Path
    label: Path | int | tuple[str, ...] | None
    patient: str = ""
    part: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    further: tuple[Path, ...] = ()

    def called(self, case: str) -> "Row":
        """Return it under another id."""
        return replace(self, case=case)


@dataclass(frozen=True)
class Layout:
    """A data set as it lies on disk.

    Attributes:
        name: of the layout.
        task: what it was made for.
        rows: the cases; empty for a MedMNIST file, which medkd reads by itself.
        labels: values by name; empty where nothing tells the names.
        modality: as the data set says.
        licence: as the data set says.
        title: of the data set.
        source: the file that lists the cases, where there is one.
        modalities: names of the channels, where they are several measurements.
        overlap: whether structures that share voxels are refused, the last in ``labels`` keeps
            them, or all do; an image keeps several findings.
        includes: of a label map, the structures that lie in others.
        ignore: the value of voxels nobody has judged.
        dealt: the parts that medkd dealt from the data set's own training cases.
        remarks: what was decided and somebody should know; TODO: what somebody has to decide.
    """

    name: str
    task: Task
    rows: tuple[Row, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    modality: str = ""
    licence: str = ""
    title: str = ""
    source: Path | None = None
    modalities: tuple[str, ...] = ()
    overlap: Overlap = "refuse"
    includes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: int | None = None
    dealt: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def noting(self, *remarks: str) -> "Layout":
        """Return it with remarks beside its own."""
        return replace(self, remarks=(*self.remarks, *remarks))

    @property
    def is_npz(self) -> bool:
        """Whether medkd reads the data from one file by itself, without a datalist."""
        return self.source is not None and self.source.suffix == ".npz"

    @property
    def has_parts(self) -> bool:
        """Whether the data set brings its own split."""
        return all(row.part for row in self.rows)

    @property
    def overlapping(self) -> bool:
        """Whether each structure, or finding, is a question of its own."""
        return self.overlap == "keep"


def is_whole(path: Path) -> bool:
    """Whether a file stands for an image: of a NIfTI pair the header does, for both."""
    pair = pair_of(path)
    return not pair or path == pair[0] or not pair[0].exists()
