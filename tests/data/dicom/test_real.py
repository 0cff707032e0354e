"""Every real DICOM file of the collection: read as its twin says, or refused for what is wrong."""

import csv

import numpy as np
import pytest
from pydicom import dcmread

from medkd.data import nifti
from medkd.data.dicom.header import read_dataset
from medkd.data.dicom.reference import read_reference
from medkd.data.dicom.segmentation import masks
from medkd.data.dicom.volume import read, read_grid
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import without_values

pytestmark = pytest.mark.data

TWINS = {  # series: the NIfTI file that others have made of it
    **dict.fromkeys(("sts_008_ct", "sts_008_mr", "sts_008_pet", "sts_025_mr"), "image"),
    **dict.fromkeys(("mr_plain", "ge_sagittal", "pet_non_isotropic"), "ground_truth"),
    **dict.fromkeys(("compressed_j2k", "compressed_jpegls", "compressed_rle"), "ground_truth"),
    **dict.fromkeys(("compressed_jpeg", "philips_enhanced_multiframe"), "ground_truth"),
}
ALIKE = {  # series: one with the same content, stored otherwise
    "compressed_j2k": "compressed_rle",
    "compressed_jpeg": "compressed_rle",
    "compressed_jpegls": "compressed_rle",
}
PLAIN = {  # series without a twin: shape, and the type of its values
    "hippocrop_11": ((40, 50, 34), "int16"),
    "hippocrop_13": ((32, 51, 35), "int16"),
    "ct_body_j2k": ((20, 512, 512), "int32"),
    "ct_torchio": ((17, 128, 88), "int16"),
    "mr_implicit": ((4, 256, 256), "uint16"),
    "two_slices_only": ((2, 256, 256), "uint16"),
    "rgb_j2k": ((4, 77, 52), "uint8"),
}
REFUSED = {
    "gantry_tilt": r"tilted by 14\.0 degrees \(-122\.19, .* -107\.64 mm\).*shear_correct",
    "missing_slice": r"missing slices: 1, at 33\.11 mm .*resample_missing: 1",
    "not_a_volume": r"several slices in one place: all lie at 61\.50 mm",
    "mixed_orientation": r"mixed orientations: 2 slices of .* 2 slices of",
    "ge_fmri_4d": r"several slices in one place: 2 at each of .* mm",
}
SINGLE = {  # file: channels and shape
    **dict.fromkeys(("CT_small", "ct_image"), (1, 1, 128, 128)),
    **dict.fromkeys(("MR_small", "MR_small_RLE", "MR_small_bigendian"), (1, 1, 64, 64)),
    **dict.fromkeys(("MR_small_implicit", "MR_small_jp2klossless"), (1, 1, 64, 64)),
    **dict.fromkeys(("MR_small_jpeg_ls_lossless", "MR_small_padded"), (1, 1, 64, 64)),
    "examples_overlay": (1, 1, 300, 484),
    "CR_6154": (1, 16, 16),
    "dx_image": (1, 169, 211),
    "RG1_J2KI": (1, 1955, 1841),
    **dict.fromkeys(("JPEG2000", "JPEG-lossy", "JPGExtended"), (1, 1024, 256)),
    "JPEGLSNearLossless_16": (1, 50, 10),
    "image_dfl": (1, 512, 512),
    "ExplVR_BigEnd": (3, 60, 80),
    **dict.fromkeys(("SC_rgb_jpeg_dcmtk", "SC_ybr_full_422_uncompressed"), (3, 100, 100)),
    "examples_jpeg2k": (3, 480, 640),
    "examples_palette": (3, 350, 800),
    "examples_rgb_color": (3, 240, 320),
}
REFUSED_FILES = {
    "MR_truncated": "cannot be decoded: .*less than expected",
    "no_meta": "not a DICOM file",
    "SC_rgb_rle_16bit_2frame": "2 of 2 pictures have no place in space, as in a film",
    "examples_ybr_color": "30 of 30 pictures have no place in space, as in a film",
    **dict.fromkeys(("rtdose", "rtdose_rle", "badVR"), "no image but RTDOSE"),
    "rtstruct": "no image but RTSTRUCT",
    "rtplan": "no image but RTPLAN",
    "reportsi": "no image but SR",
    **dict.fromkeys(("liver_1frame", "seg_image_ct_binary"), "no image but SEG"),
    "seg_image_ct_true_fractional": "no image but SEG",
}


@pytest.fixture
def series(data_root):
    return data_root / "dicom" / "series"


@pytest.fixture
def single(data_root):
    return data_root / "dicom" / "single"


def test_no_file_is_left_out(data_root):
    with (data_root / "dicom" / "manifest.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    known = {f"series/{name}" for name in {*TWINS, *PLAIN, *REFUSED}}
    known |= {f"single/{name}.dcm" for name in {*SINGLE, *REFUSED_FILES}}
    assert set(paths) == known


@pytest.mark.parametrize(("name", "twin"), TWINS.items())
def test_a_series_is_the_same_in_the_world_as_its_nifti_twin(name, twin, series, kit):
    volume = read(series / name / "dicom")
    other = nifti.read(series / name / f"{twin}.nii.gz")
    kit.assert_same_in_the_world(volume, other, atol=1e-6 * np.abs(other.array).max())


@pytest.mark.parametrize(("name", "expected"), PLAIN.items())
def test_a_series_without_a_twin_has_the_shape_and_type_of_its_slices(name, expected, series):
    volume = read(series / name / "dicom")
    assert (volume.shape, volume.array.dtype.name) == expected
    assert len(volume.array) == (3 if name == "rgb_j2k" else 1)


@pytest.mark.parametrize(("name", "other"), ALIKE.items())
def test_how_values_are_stored_makes_no_difference(name, other, series):
    one, two = read(series / name / "dicom"), read(series / other / "dicom")
    np.testing.assert_array_equal(one.array, two.array)
    np.testing.assert_allclose(one.affine, two.affine)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_series_that_is_no_volume_is_refused_for_what_it_is(name, reason, series):
    with pytest.raises(DataError, match=rf"dicom: {reason}|dicom: its slices .*{reason}"):
        read(series / name / "dicom")


def test_a_named_remedy_mends_a_missing_slice_and_a_tilt(series):
    filled = read(series / "missing_slice/dicom", ReadingOptions(resample_missing=1))
    assert (filled.shape[0], filled.spacing_mm[0]) == (5, pytest.approx(5, abs=1e-3))
    straight = read(series / "gantry_tilt/dicom", ReadingOptions(shear_correct=True))
    assert straight.spacing_mm[0] == pytest.approx(4.851, abs=1e-3)
    for volume in (filled, straight):
        axes = volume.affine[:3, :3] / volume.spacing_mm
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-3)
        assert len(volume.remedies) == 1


@pytest.mark.parametrize(("name", "shape"), SINGLE.items())
def test_a_single_file_has_its_shape(name, shape, single):
    assert read(single / f"{name}.dcm").array.shape == shape


def test_every_way_to_store_one_slice_gives_the_same_values(single):
    whole = read(single / "MR_small.dcm")
    for path in single.glob("MR_small_*.dcm"):
        np.testing.assert_array_equal(read(path).array, whole.array)
        np.testing.assert_array_equal(read(path).affine, whole.affine)


def test_values_are_those_that_the_headers_promise(single):
    overlaid = read(single / "examples_overlay.dcm").array
    assert overlaid.max() < 2**12
    for name in ("CR_6154", "dx_image", "RG1_J2KI"):  # MONOCHROME1
        shown = read(single / f"{name}.dcm").array[0]
        stored = dcmread(single / f"{name}.dcm").pixel_array
        assert np.corrcoef(shown.ravel(), stored.ravel())[0, 1] < -0.999
    ct, stored = read(single / "CT_small.dcm").array[0, 0], dcmread(single / "CT_small.dcm")
    np.testing.assert_array_equal(ct, stored.pixel_array.astype(int) - 1024)


def test_colours_are_those_of_the_plain_picture(single):
    """Both show the same bars: red on top, black and white further down."""
    for name in ("SC_rgb_jpeg_dcmtk", "SC_ybr_full_422_uncompressed"):
        array = read(single / f"{name}.dcm").array
        np.testing.assert_allclose(array[:, 5, 50], [255, 0, 0], atol=3)
        np.testing.assert_allclose(array[:, 75, 50], [64, 64, 64], atol=3)


@pytest.mark.parametrize(("name", "reason"), REFUSED_FILES.items())
def test_a_file_that_is_no_image_is_refused_for_what_it_is(name, reason, single):
    with pytest.raises(DataError, match=rf"{name}\.dcm: .*{reason}"):
        read(single / f"{name}.dcm")


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("sts_008_ct", "GTV_Mass_CT"),
        ("sts_008_mr", "GTV_Mass_MR_T1"),
        ("sts_025_mr", "gtv mass mr t1"),
        ("sts_008_pet", "GTV_Mass_PET"),
    ],
)
def test_outlines_are_the_mask_that_others_have_made_of_them(name, structure, series, kit):
    grid = read_grid(series / name / "dicom")
    drawn = read_reference(series / name / "rtstruct.dcm", grid, {structure: 1})
    other = nifti.read(series / name / "mask.nii.gz")
    assert drawn.array.any()
    kit.assert_same_in_the_world(drawn, other, atol=0)


def test_a_segmentation_is_read_frame_by_frame(single):
    """Three frames on a grid of their own, in the order of their positions."""
    path = single / "seg_image_ct_binary.dcm"
    header = read_dataset(path, memory_bytes=2**30)
    frames = header.PerFrameFunctionalGroupsSequence
    z = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in frames]
    stored = dcmread(path).pixel_array
    shared = header.SharedFunctionalGroupsSequence[0]
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    first = [float(v) for v in frames[0].PlanePositionSequence[0].ImagePositionPatient]
    lps = np.array(
        [[0, 0, spacing[1], first[0]], [0, spacing[0], 0, first[1]], [z[1] - z[0], 0, 0, z[0]]]
    )
    affine = np.vstack([np.diag([-1, -1, 1]) @ lps, [0, 0, 0, 1]])
    found = np.zeros(stored.shape, bool)
    for _, mask in masks(
        path, header, without_values(stored.shape, affine), {1}, memory_bytes=2**30
    ):
        found |= mask
    np.testing.assert_array_equal(found, stored == 1)
