"""Series: which a folder holds, and the one that is meant."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID

from medkd.data.dicom.files import dicom_of, files_in, reason, refusal
from medkd.data.dicom.header import read_dataset, refusing
from medkd.data.memory import refuse_larger
from medkd.errors import DataError, TooLargeError
from medkd.options import ReadingOptions, SeriesOptions

NO_PICTURES = {  # modalities of objects that say something about images, or that images become
    "SEG": "give it as the label of the image it was drawn on",
    "RTSTRUCT": "give it as the label of the image it was drawn on",
    "RTDOSE": "give the series that was planned on",
}
MODALITIES = {  # PS3.3 C.7.3.1.1.1; anything else in their place may name a patient
    *("AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS"),
    *("DOC", "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL"),
    *("IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP"),
    *("OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX"),
    *("REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD"),
    *("RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG"),
    *("US", "VA", "XA", "XAPROTOCOL", "XC"),
}
PLAIN_UID = re.compile(r"[0-9.]{0,64}")
IMAGE = "Image Storage"  # in the names of all classes of pictures (PS3.6 A)


@dataclass(frozen=True)
class Series:
    """The images of one series.

    Attributes:
        uid: SeriesInstanceUID.
        modality: e.g. ``CT``.
        description: SeriesDescription; may name a patient, so it is shown to nobody.
        files: one a slice, or one of many frames.
        headers: of the files, in their order, without pixels.
    """

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]

    @property
    def summary(self) -> str:
        """The series in a few words, for a list to choose from."""
        uid = self.uid if PLAIN_UID.fullmatch(self.uid) else "a UID that is none"
        return f"{uid} ({_kind(self.modality, 'no modality')}, {len(self.files)} files)"


def series_in(path: Path, *, memory_bytes: int) -> list[Series]:
    """Return the series of images in a folder, or the one of a file; by UID.

    Raises:
        DataError: no DICOM, a damaged file among it, or nothing that is a picture.
    """
    files, unreadable = dicom_of(files_in(path)) if path.is_dir() else ([path], {})
    refuse_larger(path, sum(file.stat().st_size for file in files), memory_bytes=memory_bytes)
    if path.is_dir():
        headers, damaged = read_headers(files, memory_bytes=memory_bytes)
        if told := refusal(unreadable | damaged):
            raise DataError(f"{path}: {told}")
    else:
        headers = [(path, read_dataset(path, memory_bytes=memory_bytes))]
    found, others = grouped(headers)
    if not found:
        raise DataError(f"{path}: {_no_picture({*others.values()})}")
    return found


def read_headers(
    files: Iterable[Path], *, memory_bytes: int
) -> tuple[list[tuple[Path, Dataset]], dict[Path, str]]:
    """Return the headers of files, and why others have none that can be read to its end.

    Raises:
        TooLargeError: a header takes more memory than it may.
    """
    headers: list[tuple[Path, Dataset]] = []
    unreadable: dict[Path, str] = {}
    for file in files:
        try:
            with refusing(file):
                header = read_dataset(file, memory_bytes=memory_bytes)
                is_cut = _is_cut(header)
        except TooLargeError:
            raise
        except DataError as error:
            unreadable[file] = reason(error, file)
        else:
            if is_cut:
                unreadable[file] = "ends before its picture"
            else:
                headers.append((file, header))
    return headers, unreadable


def _is_cut(header: Dataset) -> bool:
    """Whether a header without a picture is of a class that has one, or ends before it says so.

    pydicom reads what there is of a file that is cut between two attributes.
    """
    kind = header.get("SOPClassUID")
    return "Rows" not in header and (not kind or IMAGE in UID(str(kind)).name)


def grouped(headers: Iterable[tuple[Path, Dataset]]) -> tuple[list[Series], dict[Path, str]]:
    """Return the series of images by UID, and the modality of every file that is no image."""
    groups: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    others: dict[Path, str] = {}
    for file, header in headers:
        modality = str(header.get("Modality", ""))
        if "Rows" in header and modality not in NO_PICTURES:
            groups[str(header.get("SeriesInstanceUID", ""))].append((file, header))
        else:
            others[file] = modality
    return [_series(uid, members) for uid, members in sorted(groups.items())], others


def meant(found: Sequence[Series], rule: SeriesOptions | None) -> list[Series]:
    """Return the series that a rule fits; all where there is none."""
    rule = rule or SeriesOptions()
    fitting = [series for series in found if _fits(series, rule)]
    if rule.largest and fitting:
        most = max(len(series.files) for series in fitting)
        fitting = [series for series in fitting if len(series.files) == most]
    return fitting


def choose(path: Path, found: Sequence[Series], wanted: SeriesOptions | None) -> Series:
    """Return the series that is meant; there has to be exactly one.

    Raises:
        DataError: none or several fit; the series are listed.
    """
    fitting = meant(found, wanted)
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(series.summary for series in (fitting or found))
    if fitting:
        raise DataError(
            f"{path}: {len(fitting)} series: {listed}; say which with preprocess.reading.series, "
            f"or case by case in the column that data.series names"
        )
    raise DataError(
        f"{path}: none of its {len(found)} series is what preprocess.reading.series asks for: "
        f"{listed}; correct the rule, or remove the case"
    )


def read_series(path: Path, options: ReadingOptions) -> Series:
    """Return the one series of a folder or file that ``options`` ask for.

    Raises:
        DataError: as ``series_in`` and ``choose``.
    """
    return choose(path, series_in(path, memory_bytes=options.memory_bytes), options.series)


def _series(uid: str, members: Sequence[tuple[Path, Dataset]]) -> Series:
    first = members[0][1]
    return Series(
        uid=uid,
        modality=str(first.get("Modality", "")),
        description=str(first.get("SeriesDescription", "")),
        files=tuple(file for file, _ in members),
        headers=tuple(header for _, header in members),
    )


def _kind(modality: str, without: str) -> str:
    """Return a modality to be shown."""
    if not modality:
        return without
    return modality if modality in MODALITIES else "object of an unknown modality"


def _fits(series: Series, rule: SeriesOptions) -> bool:
    return (
        rule.uid in {None, series.uid}
        and rule.modality in {None, series.modality}
        and fnmatch(series.description.lower(), (rule.description or "*").lower())
    )


def _no_picture(modalities: set[str]) -> str:
    if not modalities:
        return "holds no DICOM file; correct the path"
    kinds = ", ".join(sorted({_kind(m, "object without a modality") for m in modalities}))
    remedies = [NO_PICTURES[kind] for kind in sorted(modalities) if kind in NO_PICTURES]
    remedy = (*remedies, "give a series of images")[0]
    return f"no image but {kinds}; {remedy}"
