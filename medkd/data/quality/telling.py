"""Telling: what a file says of its patient, by the names of attributes and never what they hold."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from medkd.data.dicom import is_dicom
from medkd.data.dicom.files import files_in
from medkd.data.reader import NIFTI, PICTURES, suffix
from medkd.errors import DataError

PROFILE = "basic_profile.txt"  # keywords of DICOM PS3.15 table E.1-1 (2026c), the basic profile
# of those who a patient is; the others lead there with other knowledge
DIRECT = {
    *("PatientID", "OtherPatientIDs", "OtherPatientIDsSequence", "IssuerOfPatientID"),
    *("PatientBirthDate", "PatientBirthTime", "PatientAddress", "PatientTelephoneNumbers"),
    *("PatientTelecomInformation", "MedicalRecordLocator", "PatientComments", "Occupation"),
    *("AdditionalPatientHistory", "MilitaryRank", "AccessionNumber", "AdmissionID"),
    *("ServiceEpisodeID", "PersonAddress", "PersonTelephoneNumbers", "ResponsibleOrganization"),
    *("CurrentPatientLocation", "PatientInstitutionResidence", "InsurancePlanIdentification"),
    *("ClinicalTrialSubjectID", "OrderCallbackPhoneNumber", "ReferencedPatientPhotoSequence"),
}
PRIVATE = "private attributes"
CURVES = 0x50  # groups 5000 to 50FF, which no file of today has
SAYS_NOTHING = re.compile(
    r"(?i)^(?:anon\w*|unknown|none|removed|de-?identified|no[_ ]?name|0+|x*)\^*$"
)
SCREENS = {"US", "ES", "XC", "OT", "SC", "SM", "GM", "OP"}  # pixels often come off a screen
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OF_PIXELS = BURNED_IN, MAY_BE_BURNED_IN, FACE = "burned in", "may be burned in", "a face"

# keywords of PNG 1.2, and what programs add; others are a file's own words, and may name a patient
KEYWORDS = {
    *("Title", "Author", "Description", "Copyright", "Creation Time", "Software", "Disclaimer"),
    *("Warning", "Source", "Comment", "comment", "XML:com.adobe.xmp", "Raw profile type exif"),
    *("Raw profile type iptc", "xmp", "date:create", "date:modify", "date:timestamp"),
}
LONGEST = 2**16  # characters of a text that are looked at; a longer one is told for its length
TOO_LONG = "more words than were looked through"

DAY, MONTH, YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
NAMED = r"(?i:jan|feb|mar|m[aä]r|apr|ma[yi]|jun|jul|aug|sep|o[ck]t|nov|de[cz])"

# none goes back over what it has passed, however long a text is: the start of a match is enough
PATTERNS = {
    "a name": re.compile(r"[A-Za-z]{2}\^|\b(?:Mr|Mrs|Ms|Dr)\.? [A-Z][a-z]"),
    "a date": re.compile(
        rf"(?<!\d)(?:{YEAR}([-_./:]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
        rf"|{DAY}[-./]{MONTH}[-./]{YEAR}"
        rf"|{DAY}/{DAY}/(?:{YEAR}|\d\d)"
        r"|(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])\.\d\d(?!\.)"
        rf"|{DAY}[-./ ]{{0,2}}{NAMED}[a-z]{{0,6}}[-./, ]{{0,2}}(?:{YEAR}|\d\d))(?!\d)"
        rf"|(?<![A-Za-z]){NAMED}[a-z]{{0,6}}[-. ]{{1,2}}{DAY},? {YEAR}(?!\d)"
    ),
    "a birth": re.compile(r"(?i:\b(?:born|birth|dob)\b)"),
    "a patient's number": re.compile(
        r"(?i:(?<![a-z])(?:pat(?:ient)?[ _.]?(?:id|no|nr|num)|mrn|ssn)[ _.:#=-]{0,3}\d)"
    ),
    "a DICOM UID": re.compile(r"(?<![\d.])[0-2](?:\.\d+){5,}(?![\d.])"),
    "an address": re.compile(r"[\w.+-]@[\w-]+\.\w"),
    "a number of six digits or more": re.compile(r"(?<![\d.])\d{6}"),
}
OWN_WORDS = "words of its own"  # where programs write theirs
PLACE_TAKEN = "the place where it was taken"
FREE = {  # fields that people write into, too
    *("NIfTI descrip", "NIfTI aux_file", "NIfTI db_name", "NIfTI extension (comment)"),
    *("text comment", "text Comment", "text Title", "text Description", "IPTC"),
    *("EXIF 270", "EXIF 37510", "EXIF 40091", "EXIF 40092", "EXIF 40095"),
}
TAKEN = {  # when a picture was taken or written: no date of birth
    *("EXIF 306", "EXIF 36867", "EXIF 36868", "text Creation Time", "text date:create"),
    *("text date:modify", "text date:timestamp"),
}
# of FreeSurfer the date of its build, of FSL the commit, of dcm2niix the time of day
HARMLESS = re.compile(
    r"FreeSurfer [A-Z][a-z]{2} +\d{1,2} \d{4}|\d\.\d\.\d+:[0-9a-f]{8}(?![0-9a-z])|Time=\d{6}"
)
PROGRAMS = frozenset(  # what they write there, word by word; numbers may follow
    [
        *("fsl", "spm", "freesurfer", "afni", "ants", "itk", "simpleitk", "mrtrix", "nibabel"),
        *("nilearn", "elastix", "slicer", "mricron", "dcm", "niix", "nii", "nifti", "analyze"),
        *("version", "compatible", "single", "file", "format", "image", "images", "none", "data"),
        *("normalized", "normalised", "normalize", "warped", "realigned", "resliced", "resampled"),
        *("smoothed", "coregistered", "registered", "segmented", "conv", "algebra", "contrast"),
        *("mask", "label", "labels", "binary", "float", "int", "mean", "mni", "icbm", "template"),
        *("te", "tr", "ti", "fa", "time", "phase", "mag", "real", "imaginary", "mb", "dwell", "ms"),
        *("deg", "sec", "mm", "ep", "gr", "ir", "se", "rm", "ct", "mr", "pt", "mosaic"),
        *("red", "yellow", "blue", "green", "hot", "cool", "gray", "grey", "lut", "colormap"),
        *("created", "creator", "written", "with", "by", "using", "the", "gimp", "adobe", "imagej"),
        *("photoshop", "gd", "jpeg", "jpg", "ijg", "png", "tiff", "quality", "default", "lead"),
        *("technologies", "inc", "lavc", "intel", "library", "matlab", "python", "software"),
    ]
)


def telling(path: Path) -> tuple[str, ...]:
    """Return the names of what a file, or any of a series, says of its patient.

    What cannot be read says nothing here: the readers refuse it.
    """
    try:
        if suffix(path) in NIFTI:
            return tuple(_of_nifti(path))
        if suffix(path) in PICTURES:
            return tuple(_of_picture(path))
        found = files_in(path) if path.is_dir() else [path]
        told = (name for file in found if is_dicom(file) for name in _of_dicom(file))
        return tuple(dict.fromkeys(told))
    except (DataError, OSError):
        return ()


def looks_like(text: str) -> str | None:
    """Say what of a patient a text seems to hold; None if it seems to hold nothing.

    No more than ``LONGEST`` characters are looked at; that there are more is told where nothing
    else is.

    Example:
        >>> looks_like("DOE^JANE"), looks_like("scan 1956-03-04"), looks_like("FSL 6.0")
        ('a name', 'a date', None)
    """
    start = text[:LONGEST]
    found = next((what for what, pattern in PATTERNS.items() if pattern.search(start)), None)
    return found or (TOO_LONG if len(text) > LONGEST else None)


def has_own_words(text: str) -> bool:
    """Whether a text holds words that no program writes where this one stands.

    Example:
        >>> has_own_words("Doe, Jane"), has_own_words("FSL5.0"), has_own_words("TE=5;Time=1613.2")
        (True, False, False)
    """
    words = re.findall(r"[^\W\d_]{2,}", text[:LONGEST])
    return any(word.lower() not in PROGRAMS for word in words)


def is_direct(name: str) -> bool:
    """Whether what goes by this name says who a patient is, by itself."""
    from pydicom.datadict import tag_for_keyword

    field, is_text, kind = name.rpartition(": ")
    if is_text:
        return kind not in {OWN_WORDS, PLACE_TAKEN} and field not in TAKEN
    tag = tag_for_keyword(name)
    return name in DIRECT or (tag is not None and _dictionary_vr(tag) == "PN")


def _of_dicom(path: Path) -> list[str]:
    from medkd.data.dicom.header import read_dataset, refusing
    from medkd.options import ReadingOptions

    try:
        with refusing(path):
            memory_bytes = ReadingOptions().memory_bytes
            header = read_dataset(path, memory_bytes=memory_bytes, all_attributes=True)
            told = sorted({*_told_in(header), *_told_in(header.file_meta)})
            return [*told, *_burned_in(header)]
    except DataError:
        return []


@cache
def _profile() -> frozenset[str]:
    listed = files("medkd.data.quality").joinpath(PROFILE).read_text(encoding="utf-8").split()
    return frozenset(DIRECT.union(listed))


def _told_in(dataset: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the keywords of attributes that tell, at any depth; few others are decoded."""
    from pydicom.datadict import keyword_for_tag

    for tag in dataset.keys():  # noqa: SIM118  as a mapping: itself it yields decoded elements
        keyword, vr = keyword_for_tag(tag), dataset.get_item(tag).VR or _dictionary_vr(tag)
        is_telling = vr in {"PN", "DA", "DT"} or keyword in _profile() or tag.group >> 8 == CURVES
        if tag.is_private:
            yield PRIVATE
        if vr != "SQ" and not (keyword and is_telling):
            continue
        try:
            value = dataset[tag].value
            if vr == "SQ":
                for item in value or ():
                    yield from _told_in(item)
        except Exception:  # noqa: BLE001  pydicom's errors share no base class
            value = keyword  # what cannot be decoded may say anything
        if keyword and is_telling and (value if vr == "SQ" else _says_something(value)):
            yield keyword


def _dictionary_vr(tag: Any) -> str:  # noqa: ANN401
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _says_something(value: Any) -> bool:  # noqa: ANN401
    text = str(value or "").strip()
    return len(text) > LONGEST or not SAYS_NOTHING.match(text)


def _burned_in(header: Any) -> Iterator[str]:  # noqa: ANN401
    said = str(header.get("BurnedInAnnotation", "")).upper()
    of_screen = (
        str(header.get("Modality", "")) in SCREENS
        or str(header.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE)
        or any("SCREEN" in str(value).upper() for value in header.get("ImageType") or ())
    )
    if said == "YES":
        yield BURNED_IN
    elif said != "NO" and of_screen:
        yield MAY_BE_BURNED_IN
    if str(header.get("RecognizableVisualFeatures", "")).upper() == "YES":
        yield FACE


def _of_nifti(path: Path) -> Iterator[str]:
    from medkd.data.nifti import remarks

    for field, text in remarks(path).items():
        kind = _kind(f"NIfTI {field}", text)
        if field == "extension (DICOM)":
            kind = "a DICOM header"
        if kind:
            yield f"NIfTI {field}: {kind}"


def _kind(field: str, text: str) -> str | None:
    """Say what of a patient a field seems to hold; words of programs hold nothing."""
    if field not in FREE:
        return looks_like(text)
    text = HARMLESS.sub("", text[: LONGEST + 1])
    return looks_like(text) or (OWN_WORDS if has_own_words(text) else None)


def _of_picture(path: Path) -> Iterator[str]:
    from medkd.data.images import PLACE, remarks

    others: Counter[str] = Counter()
    for field, text in remarks(path).items():
        kind = PLACE_TAKEN if field == PLACE else _kind(field, text)
        if _is_known(field):
            if kind:
                yield f"{field}: {kind}"
        elif kind := kind or looks_like(field):
            others[kind] += 1
    for kind, count in sorted(others.items()):
        yield f"{count} texts by names of their own: {kind}"


def _is_known(field: str) -> bool:
    """Whether what a text is called by can be shown: a file's own words may name a patient."""
    return field.startswith(("EXIF ", "IPTC")) or field.removeprefix("text ") in KEYWORDS
