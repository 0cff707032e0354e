import errno
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medkd.data import images, nifti
from medkd.data.findings import Level
from medkd.data.quality.examine import Examined, examine, files_of
from medkd.data.reader import read_image
from medkd.types import Case
from tests.data.dicom.conftest import VOXELS, save, slice_of
from tests.data.start.test_dicom_tree import write_outlines

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(12, 10, 8)).astype(np.float32)


@pytest.fixture
def case(tmp_path):
    """A sound case, whose label holds 1 and 5."""
    label = np.zeros(NOISE.shape, np.uint8)
    label[:3], label[3] = 1, 5
    nifti.write(tmp_path / "a.nii.gz", NOISE, affine=np.diag([1, 2, 3, 1.0]))
    nifti.write(tmp_path / "a-label.nii.gz", label, affine=np.diag([1, 2, 3, 1.0]))
    return Case("a", tmp_path / "a.nii.gz", tmp_path / "a-label.nii.gz", "p")


def test_what_is_known_of_a_case_are_numpy_s_numbers(case, config):
    found = examine(case, config)
    assert found.findings == ()
    assert (found.shape, found.spacing_mm, found.orientation) == ((12, 10, 8), (1, 2, 3), "RAS")
    assert found.voxels == {0: 8 * 80, 1: 3 * 80, 5: 80}
    assert found.voxel_ml == pytest.approx(0.006)
    assert found.intensities.median == pytest.approx(float(np.median(NOISE)), rel=1e-6)
    assert (found.intensities.least, found.intensities.most) == (NOISE.min(), NOISE.max())


def test_a_case_takes_little_more_memory_than_its_arrays(tmp_path):
    image = RNG.integers(0, 200, (256, 256, 256), dtype=np.uint8)
    for name, array in (("i", image), ("l", (image > 190).astype(np.uint8))):
        nifti.write(tmp_path / f"{name}.nii.gz", array, affine=np.eye(4))
    tracemalloc.start()
    found = examine(Case("a", tmp_path / "i.nii.gz", tmp_path / "l.nii.gz", "p"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.voxels[1] == np.count_nonzero(image > 190)
    assert peak < 3.5 * image.nbytes  # image and label are two of them


def test_the_value_of_voxels_that_nobody_has_judged_is_declared(case, config):
    data = config.data.model_copy(update={"labels": {"organ": 1}})
    undeclared = config.model_copy(update={"data": data})
    assert "values [5]" in examine(case, undeclared).findings[0].message
    known = undeclared.model_copy(update={"data": data.model_copy(update={"ignore": 5})})
    assert examine(case, known).findings == ()


def test_it_outlives_the_way_through_json(case, config):
    found = examine(case, config)
    assert Examined.model_validate_json(found.model_dump_json()) == found


def test_pixels_are_the_same_however_they_are_stored(case, config, tmp_path):
    whole = np.rint(100 * NOISE)
    for name, dtype in (("i", np.int16), ("f", np.float64)):
        nifti.write(tmp_path / f"{name}.nii", whole.astype(dtype), affine=np.eye(4))
    one, other = (
        examine(replace(case, image=tmp_path / f"{name}.nii", label=None)) for name in "if"
    )
    assert one.pixels == other.pixels
    assert one.image != other.image
    assert examine(case, config).pixels != one.pixels


def test_an_image_is_the_same_as_a_series_and_stored_otherwise(case, config, tmp_path):
    for number in range(len(VOXELS)):
        slice_of(number).save_as(tmp_path / f"series-{number}.dcm", enforce_file_format=True)
    (tmp_path / "series").mkdir()
    for path in tmp_path.glob("*.dcm"):
        path.rename(tmp_path / "series" / path.name)
    read = read_image(tmp_path / "series")
    twin = nibabel.as_closest_canonical(nibabel.Nifti1Image(read.array[0], read.affine))
    nibabel.save(twin, tmp_path / "twin.nii.gz")
    to_sla = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(twin.affine), nibabel.orientations.axcodes2ornt("SLA")
    )
    nibabel.save(twin.as_reoriented(to_sla), tmp_path / "sla.nii.gz")
    found = [
        examine(replace(case, image=tmp_path / name, label=None))
        for name in ("series", "twin.nii.gz", "sla.nii.gz")
    ]
    assert len({each.orientation for each in found}) == 3
    assert len({each.pixels for each in found}) == len({each.perceptual for each in found}) == 1
    assert len({each.image for each in found}) == 3


PILED = {
    "saturated": (np.clip(NOISE, None, 0.5), "saturated: 3"),
    "nearly empty": (np.where(np.arange(NOISE.size).reshape(NOISE.shape) == 7, 5, 0), "nearly e"),
}


@pytest.mark.parametrize("kind", list(PILED))
def test_values_that_pile_up_are_a_warning(case, config, kind):
    array, message = PILED[kind]
    larger = np.tile(array, (3, 3, 3)) if kind == "saturated" else np.pad(array, 4)
    nifti.write(case.image, larger.astype(np.float32), affine=np.eye(4))
    (finding,) = examine(replace(case, label=None), config).findings
    assert finding.level is Level.WARNING
    assert finding.message.startswith(message)


@pytest.mark.parametrize("array", [NOISE, (NOISE > 0).astype(np.uint8)], ids=["noise", "a shape"])
def test_noise_and_shapes_are_not_saturated(case, config, array):
    nifti.write(case.image, array, affine=np.diag([1, 2, 3, 1.0]))
    assert examine(case, config).findings == ()


def test_an_orientation_that_was_taken_for_granted_is_a_warning(case, config):
    nibabel.save(nibabel.Nifti1Image(NOISE, None), case.image)
    (finding,) = examine(replace(case, label=None), config).findings
    assert finding.level is Level.WARNING
    assert "its header codes neither qform nor sform" in finding.message


def test_a_reader_s_error_is_taken_apart(case, config):
    case.image.write_bytes(case.image.read_bytes()[:200])
    (finding,) = examine(case, config).findings
    assert (finding.level, finding.file) == (Level.ERROR, case.image)
    assert finding.message.startswith("truncated")
    assert "a.nii.gz" not in finding.anonymous(lambda kind, _: kind)["message"]
    assert finding.remedy == "copy it again"


def test_labels_are_asked_what_they_tell_of_a_patient_as_images_are(case, config, tmp_path):
    said = nibabel.load(case.label)
    said.header["descrip"] = "DOE^JANE"
    said.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1956-03-04"))
    nibabel.save(said, tmp_path / "b-label.nii.gz")
    told = {"NIfTI descrip: a name", "NIfTI extension (comment): a date"}
    labelled = replace(case, label=tmp_path / "b-label.nii.gz")
    assert not examine(case, config).telling
    assert told <= set(examine(labelled, config).telling)
    write_outlines(tmp_path / "1.2.840.113", "1.2.3", {"organ": 4})
    assert "PatientID" in examine(replace(case, label=tmp_path / "1.2.840.113")).telling


@pytest.mark.parametrize("ending", [".hdr", ".img", ".HDR", ".IMG"])
def test_a_pair_is_two_files_by_whichever_name_it_goes(ending):
    pair = [Path("DIR.x/a.HDR"), Path("DIR.x/a.IMG")]
    if ending.islower():
        pair = [path.with_suffix(path.suffix.lower()) for path in pair]
    assert files_of(Path(f"DIR.x/a{ending}")) == pair


@pytest.mark.parametrize("of", ["image", "label"])
def test_a_file_that_may_not_be_opened_is_one_finding_of_its_case(case, config, monkeypatch, of):
    path = case.image.parent / "1.2.840.113"
    path.write_bytes(b"DICM")
    opened = Path.open

    def refused(self, *args, **options):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    (finding,) = examine(replace(case, **{of: path}), config).findings
    assert (finding.level, finding.file) == (Level.ERROR, path)
    assert finding.message == "cannot be read (Permission denied)"
    assert finding.remedy


@pytest.mark.parametrize("of", ["image", "label"])
def test_a_folder_of_a_series_with_an_unreadable_file_is_one_finding_that_names_it(
    case, config, of
):
    """The others are a regular stack, and a series one slice short would go unseen."""
    folder = case.image.parent / "series"
    for number in range(3):
        save(folder / f"{number}.dcm", slice_of(number))
    listed = replace(case, **{of: folder})
    assert not any("unreadable" in each.message for each in examine(listed, config).findings)
    (folder / "2.dcm").write_bytes(b"")
    (finding,) = examine(listed, config).findings
    assert (finding.level, finding.file) == (Level.ERROR, folder)
    assert finding.message == "1 file of this folder is unreadable: 2.dcm (empty)"
    assert finding.remedy == "mend or remove it"


@pytest.fixture
def two(case, config, tmp_path):
    """Return the case with a second modality on a grid, and a config of two."""
    preprocess = config.preprocess.model_copy(update={"channels": 2, "modalities": ("t1", "flair")})

    def make(**grid):
        grid = {"affine": np.diag([1, 2, 3, 1.0])} | grid
        nifti.write(tmp_path / "DOE_flair.nii.gz", 2 * NOISE + 1, **grid)
        further = (tmp_path / "DOE_flair.nii.gz",)
        return replace(case, further=further), config.model_copy(update={"preprocess": preprocess})

    return make


def test_modalities_are_examined_together(two, case, config):
    found, alone = examine(*two()), examine(case, config)
    assert (found.findings, found.channels) == ((), 2)
    assert found.voxels == alone.voxels
    assert len({each.image for each in (found, alone)}) == 2


def test_a_modality_on_another_grid_is_an_error_that_tells_no_file_name(two):
    case, config = two(affine=np.diag([1, 2, 3.5, 1.0]))
    (finding,) = examine(case, config).findings
    assert (finding.level, finding.file) == (Level.ERROR, case.further[0])
    assert finding.message == f"not on the grid of {case.image}: spacing 1x2x3.5 mm, not 1x2x3"
    assert finding.remedy == "register and resample it onto that image"
    shown = finding.anonymous(lambda kind, name: kind)["message"]
    assert shown == "not on the grid of …: spacing 1x2x3.5 mm, not 1x2x3"


def test_one_file_of_fewer_channels_than_modalities_is_an_error(two):
    case, config = two()
    (finding,) = examine(replace(case, further=()), config).findings
    assert (finding.level, finding.message) == (
        Level.ERROR,
        "1 channels, preprocess.channels is 2",
    )


def test_a_modality_that_is_not_there_is_named(two):
    case, config = two()
    case.further[0].unlink()
    (finding,) = examine(case, config).findings
    assert (finding.file, finding.message) == (case.further[0], "no such file")


def test_axes_are_given_by_anatomy(tmp_path):
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = 3, -1, 2, 1
    nifti.write(tmp_path / "t.nii", RNG.normal(size=(10, 8, 12)), affine=turned)
    found = examine(Case("t", tmp_path / "t.nii", None, "p"))
    assert found.orientation == "PSR"
    assert found.grid == ((12, 10, 8), (3, 1, 2))
    images.write(tmp_path / "t.png", RNG.integers(0, 255, (10, 8), dtype=np.uint8))
    assert examine(Case("t", tmp_path / "t.png", None, "p")).grid == ((10, 8), (1, 1))


@pytest.fixture
def overlapping(config):
    """The config of structures that may overlap."""
    data = config.data.model_copy(update={"overlapping": True})
    return config.model_copy(update={"data": data})


def in_channels(case, *channels):
    nifti.write(case.label, np.stack(channels, axis=-1), affine=np.diag([1, 2, 3, 1.0]))


def test_structures_that_overlap_are_counted_each_with_all_its_voxels(case, overlapping):
    organ, lesion = np.zeros((2, *NOISE.shape), np.uint8)
    organ[:4], lesion[2:5] = 1, 1
    in_channels(case, organ, lesion)
    found = examine(case, overlapping)
    assert found.findings == ()
    assert found.voxels == {0: 7 * 80, 1: 4 * 80, 5: 3 * 80}


@pytest.mark.parametrize(
    ("channels", "value", "message"),
    [(3, 1, "3 channels, and data.labels names 2"), (2, 4, "holds the values [4], which are none")],
)
def test_a_label_that_does_not_hold_them_is_an_error_with_a_remedy(
    case, overlapping, channels, value, message
):
    masks = np.zeros((channels, *NOISE.shape), np.uint8)
    masks[:, :4] = value
    in_channels(case, *masks)
    (finding,) = examine(case, overlapping).findings
    assert (finding.level, finding.file) == (Level.ERROR, case.label)
    assert finding.message.startswith(message)
    assert finding.remedy


@pytest.mark.parametrize(
    ("flair", "level", "message"),
    [
        (np.zeros_like(NOISE), Level.ERROR, "flair: every voxel is 0.0"),
        (np.clip(NOISE, None, 0.5), Level.WARNING, "flair: saturated"),
        (
            np.where(NOISE > 1, np.nan, NOISE),
            Level.ERROR,
            f"flair: {(NOISE > 1).sum()} voxels are NaN",
        ),
    ],
)
def test_each_channel_is_judged_by_itself(two, flair, level, message):
    case, config = two()
    nifti.write(case.further[0], flair, affine=np.diag([1, 2, 3, 1.0]))
    (finding,) = examine(case, config).findings
    assert (finding.level, finding.file) == (level, case.further[0])
    assert finding.message.startswith(message)


def test_colours_of_a_picture_are_judged_together(config, tmp_path):
    blue = np.zeros((10, 8, 3), np.uint8)
    blue[..., 2] = RNG.integers(0, 255, (10, 8))
    images.write(tmp_path / "c.png", blue)
    found = examine(Case("c", tmp_path / "c.png", None, "p"), config)
    assert not any("every voxel" in finding.message for finding in found.findings)
    assert found.by_channel == ()


DOE = "Doe: Jane; 1"  # of a file or folder, or in a header


def spoilt_slice(folder, number=0, **changes):
    dataset = slice_of(number)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / f"{DOE}-{number}.dcm")
    return folder


def renamed(content, *, to, of=b"MONOCHROME2 "):
    assert of in content
    return content.replace(of, to.ljust(len(of)))


def half_of_a_pair(folder):
    image = nibabel.Nifti1Pair(NOISE, np.eye(4))
    nibabel.save(image, folder / f"{DOE}.hdr")
    (folder / f"{DOE}.img").unlink()
    return folder / f"{DOE}.hdr"


def of_two_kinds_of_pictures(folder):
    series = spoilt_slice(folder / DOE)
    spoilt_slice(series, 1, PhotometricInterpretation="DOE JANE")
    return series


def of_an_odd_syntax(folder):
    path = next(spoilt_slice(folder / DOE).iterdir())
    path.write_bytes(
        renamed(path.read_bytes(), of=b"1.2.840.10008.1.2.1", to=b"1.2.840.10008.9 Doe")
    )
    return path


def of_odd_pixels(folder):
    path = next(spoilt_slice(folder / DOE).iterdir())
    path.write_bytes(renamed(path.read_bytes(), to=b"DOE JANE"))
    return path


def of_an_odd_modality(folder):
    return spoilt_slice(spoilt_slice(folder / DOE, Modality="DOE JANE"), 1, SeriesInstanceUID="1.5")


def with_an_empty_file(folder):
    (spoilt_slice(folder / DOE) / f"{DOE}-9.dcm").touch()
    return folder / DOE


def with_content(suffix, content):
    def make(folder):
        (folder / f"{DOE}{suffix}").write_bytes(content)
        return folder / f"{DOE}{suffix}"

    return make


IMAGES = {
    "half of a pair": half_of_a_pair,
    "a damaged file of a series": lambda folder: spoilt_slice(folder / DOE, Rows=9999),
    "no place": lambda folder: spoilt_slice(
        spoilt_slice(folder / DOE), 1, ImagePositionPatient=None, PixelSpacing=None
    ),
    "no spacing": lambda folder: spoilt_slice(folder / DOE, PixelSpacing=None),
    "kinds of pictures": of_two_kinds_of_pictures,
    "an odd syntax": of_an_odd_syntax,
    "odd pixels": of_odd_pixels,
    "an empty file beside it": with_an_empty_file,
    "an odd modality": of_an_odd_modality,
    "an empty folder": lambda folder: (folder / DOE).mkdir() or folder / DOE,
    "nothing": lambda folder: folder / f"{DOE}.nii",
    **{
        f"{suffix} of {content[:4]}": with_content(suffix, content)
        for suffix in (".nii", ".nii.gz", ".png", ".dcm")
        for content in (b"", b"DOE JANE", b"\x1f\x8bDOE", b"II*\0DOE JANE", b"\x89PNG\r\n\x1a\nDOE")
    },
}


@pytest.mark.parametrize("kind", list(IMAGES))
def test_what_is_said_of_an_image_that_cannot_be_read_names_nobody(tmp_path, config, kind):
    image = IMAGES[kind](tmp_path)
    findings = examine(Case(DOE, image, None, "p"), config).findings
    assert findings
    for finding in findings:
        shown = str(finding.anonymous(lambda kind, name: kind))
        assert not {"doe", "jane"} & set(re.findall("[a-z]+", shown.lower())), shown
        assert DOE in finding.line


def of_outlines(folder, *, names=(DOE,), kind="POINT"):
    write_outlines(folder / f"{DOE}.dcm", "1.2.5", dict.fromkeys(names))
    read = pydicom.dcmread(folder / f"{DOE}.dcm")
    read.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = kind
    read.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.5"
    read.save_as(folder / f"{DOE}.dcm")
    return folder / f"{DOE}.dcm"


def of_segments(folder):
    path = of_outlines(folder, names=("organ",))
    read = pydicom.dcmread(path)
    segment = pydicom.Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "organ"
    read.Modality, read.SegmentationType, read.FrameOfReferenceUID = "SEG", "DOE JANE", "1.2.5"
    read.SegmentSequence = [segment]
    read.save_as(path)
    return path


LABELS = {
    "names of structures": of_outlines,
    "a kind of outline": lambda folder: of_outlines(folder, names=("organ",), kind="DOE JANE"),
    "a kind of segments": of_segments,
    "several references": lambda folder: (
        of_outlines(of_outlines(folder / DOE / "x").rename(folder / DOE / "x.dcm").parent).parent
    ),
}


@pytest.mark.parametrize("kind", list(LABELS))
def test_what_is_said_of_a_reference_that_cannot_be_read_names_nobody(tmp_path, config, kind):
    series = tmp_path / "series"
    for number in range(3):
        spoilt_slice(series, number)
    case = Case(DOE, series, LABELS[kind](tmp_path), "p")
    (finding,) = (f for f in examine(case, config).findings if f.level is Level.ERROR)
    shown = str(finding.anonymous(lambda kind, name: kind))
    assert not {"doe", "jane"} & set(re.findall("[a-z]+", shown.lower())), shown
    assert DOE in finding.line
