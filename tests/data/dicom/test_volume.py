import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread

from medkd.data.dicom.volume import LPS_TO_RAS, read, read_grid
from medkd.errors import DataError
from medkd.options import ReadingOptions


def test_a_voxel_lies_where_the_standard_says(series, kit):
    volume = read(series.folder)
    z, y, x = 3, 1, 4
    lps = kit.first_mm + kit.turn.T @ (np.array([x, y, z]) * kit.spacing_mm)
    ras = lps * [-1, -1, 1]
    index = np.rint(np.linalg.inv(volume.affine) @ [*ras, 1]).astype(int)[:3]
    np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], ras, atol=1e-6)
    assert volume.array[(0, *index)] == kit.voxels[z, y, x]
    assert sorted(volume.spacing_mm) == pytest.approx(sorted(kit.spacing_mm))


def test_a_volume_is_that_of_highdicom(series):
    import highdicom as hd

    volume = read(series.folder)
    other = hd.get_volume_from_series([dcmread(path) for path in series.folder.iterdir()])
    np.testing.assert_array_equal(volume.array[0], other.array)
    np.testing.assert_allclose(volume.affine, LPS_TO_RAS @ other.affine, atol=1e-6)
    assert volume.remedies == ()


def test_a_grid_is_that_of_the_volume(series):
    volume, grid = read(series.folder), read_grid(series.folder)
    assert grid.shape == volume.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)
    assert grid.frame_uid == volume.frame_uid == "1.2.5"


def test_rescale_of_each_slice_is_applied(series):
    before = read(series.folder).array
    for number in range(5):
        series.change(number, RescaleSlope=2 + number, RescaleIntercept=-100)
    after = read(series.folder).array
    slopes = (after + 100)[before > 0] / before[before > 0]
    assert sorted(set(slopes)) == [2, 3, 4, 5, 6]


def test_a_series_without_frame_of_reference_is_read(series):
    before = read(series.folder)

    def anonymise(dataset):
        del dataset.FrameOfReferenceUID

    series.change_all(anonymise)
    after = read(series.folder)
    np.testing.assert_array_equal(after.array, before.array)
    assert after.frame_uid == ""


def test_hidden_files_notes_and_directories_of_media_do_not_matter(series, kit):
    for name in (".DS_Store", "notes.txt", "DICOMDIR"):
        (series.folder / name).write_bytes(b"not DICOM")
    assert read(series.folder).shape == kit.voxels.shape


def test_a_tenth_of_a_millimetre_is_no_gap(tmp_path, kit):
    """Spacings such as 0.625 mm are often written in tenths."""
    series = kit.Series(tmp_path / "fine", count=40)
    for number in range(40):
        z = round(0.625 * number, 1)
        series.change(number, ImagePositionPatient=[0, 0, z], InstanceNumber=1)
    volume = read(series.folder)
    assert volume.shape[0] == 40
    assert volume.spacing_mm[0] == pytest.approx(0.625, abs=2e-3)


IRREGULAR = {
    "duplicate": ({"ImagePositionPatient": [10, -20, 30]}, r"again at 30\.00 mm"),
    "copy": ({"ImagePositionPatient": [10, -20, 30], "InstanceNumber": 1}, "copies of one another"),
    "gap": ({"ImagePositionPatient": [10, -20, 41]}, r"odd distances \(30\.00, .* 41\.00 mm"),
    "sideways": ({"ImagePositionPatient": [12, -20, 40]}, r"shifted sideways by up to"),
    "orientation": (
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "mixed orientations: 4 ",
    ),
    "skewed": ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "two perpendicular directions"),
    "infinite": ({"ImagePositionPatient": ["nan", 0, 0]}, "ImagePositionPatient is not 3 numbers"),
    "spacing": ({"PixelSpacing": [1, 1]}, "mixed pixel spacings: 4 slices"),
    "no spacing": ({"PixelSpacing": None}, "no PixelSpacing"),
    "zero spacing": ({"PixelSpacing": [0, 1]}, r"PixelSpacing is \[0\.0, 1\.0\]"),
    "no place": ({"ImagePositionPatient": None}, "1 of 5 pictures have no place"),
    "series": ({"SeriesInstanceUID": "1.2.9"}, r"2 series: .*1\.2\.9 \(MR, 1 files\)"),
    "frame": ({"FrameOfReferenceUID": "1.2.99"}, "2 frames of reference"),
    "size": ({"pixels": np.zeros((6, 6), np.uint16)}, "pictures of several kinds: 6x6"),
    "truncated": ({"PixelData": bytes(74)}, r"cannot be decoded: .*less than expected"),
    "no pixels": ({"PixelData": None}, "cannot be decoded|not a DICOM file"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(("changes", "reason"), IRREGULAR.values(), ids=IRREGULAR)
def test_an_irregular_series_is_refused(series, changes, reason):
    series.change(4, **changes)
    with pytest.raises(DataError, match=rf"series[^:]*: .*{reason}"):
        read(series.folder)


def test_several_pictures_of_each_place_are_refused_with_what_tells_them_apart(series, kit):
    for number in range(5):
        other = kit.slice_of(number, EchoTime=20, InstanceNumber=number + 1)
        kit.save(series.folder / f"echo-{number}.dcm", other)
        series.change(number, EchoTime=10)
    said = r"2 at each of 30\.00, .* 40\.00 mm .* differ in EchoTime:"
    with pytest.raises(DataError, match=said):
        read(series.folder)


def test_a_missing_slice_is_refused_with_its_place_and_interpolated_where_allowed(series):
    before = read(series.folder)
    series.path(2).unlink()
    said = r"missing slices: 1, at 35\.00 mm .*set preprocess\.reading\.resample_missing: 1"
    with pytest.raises(DataError, match=said):
        read(series.folder)
    after = read(series.folder, ReadingOptions(resample_missing=1))
    assert after.remedies == ("resample_missing: 1 slices, 5.00 mm from the first",)
    np.testing.assert_allclose(after.affine, before.affine)
    kept = np.delete(after.array, 2, axis=1)
    np.testing.assert_array_equal(kept, np.delete(before.array, 2, axis=1))
    between = (before.array[:, 1].astype(float) + before.array[:, 3]) / 2
    np.testing.assert_allclose(after.array[:, 2], between, atol=0.5)


@pytest.mark.parametrize(("thickness", "is_refused"), [(2.5, True), (1.0, True), (4.0, False)])
def test_every_other_slice_is_missed_where_headers_tell_their_spacing(
    series, thickness, is_refused
):
    """A spacing less than the slices' thickness is what some writers call the gap."""
    for number in range(5):
        told = {"SpacingBetweenSlices": 2.5, "SliceThickness": thickness}
        series.change(number, **told)
    before = read(series.folder)
    for number in (1, 3):
        series.path(number).unlink()
    if is_refused:
        with pytest.raises(DataError, match=r"missing slices: 2, at 32\.50, 37\.50 mm"):
            read(series.folder)
        filled = read(series.folder, ReadingOptions(resample_missing=1))
        np.testing.assert_allclose(filled.affine, before.affine)
    else:
        assert read(series.folder).spacing_mm[0] == pytest.approx(5)


def test_as_many_missing_slices_as_the_config_allows_and_no_more(series):
    for number in (1, 2):
        series.path(number).unlink()
    with pytest.raises(DataError, match=r"resample_missing: 2"):
        read(series.folder, ReadingOptions(resample_missing=1))
    assert read(series.folder, ReadingOptions(resample_missing=2)).shape[0] == 5


def tilt(series, degrees):
    """Shift slices along the rows' direction, as a tilted gantry does."""
    shift = np.tan(np.radians(degrees))

    def change(dataset):
        number = int(dataset.InstanceNumber) - 1
        position = np.array(dataset.ImagePositionPatient, float)
        row_direction = np.array(dataset.ImageOrientationPatient, float)[3:]
        dataset.ImagePositionPatient = list(position + shift * 2.5 * number * row_direction)

    series.change_all(change)


def test_a_tilt_is_refused_with_its_angle_and_resampled_where_allowed(series, kit):
    """The truth is linear in the world, which linear interpolation keeps."""
    tilt(series, 20)
    slope = np.array([7.0, -3, 11])

    def paint(dataset):
        rows, columns = np.mgrid[:6, :7]
        first, axes = np.array(dataset.ImagePositionPatient), dataset.ImageOrientationPatient
        world = first + rows[..., None] * 1.3 * np.array(axes[3:])
        world = world + columns[..., None] * 0.8 * np.array(axes[:3])
        dataset.PixelData = np.round(1000 + world @ slope).astype(np.uint16).tobytes()

    series.change_all(paint)
    with pytest.raises(DataError, match=r"tilted by 20\.0 degrees .*shear_correct: true"):
        read(series.folder)
    options = ReadingOptions(shear_correct=True)
    volume, grid = read(series.folder, options), read_grid(series.folder, options)
    assert volume.remedies == ("shear_correct: axes 20.0 degrees off right angles",)
    assert volume.spacing_mm == pytest.approx((2.5, 1.3, 0.8))
    axes = volume.affine[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert grid.shape == volume.shape
    np.testing.assert_allclose(grid.affine, volume.affine)
    covered = volume.array[0] > volume.array.min()
    places = (volume.affine @ np.vstack([np.argwhere(covered).T, np.ones(covered.sum())]))[:3].T
    expected = 1000 + (places * [-1, -1, 1]) @ slope
    np.testing.assert_allclose(volume.array[0][covered], expected, atol=2)
    assert covered.sum() >= 5 * 5 * 7


def test_slices_that_drift_by_less_than_a_tenth_of_a_pixel_are_at_right_angles(series):
    tilt(series, 0.3)
    volume = read(series.folder)
    assert volume.remedies == ()


def test_a_single_slice_is_as_thick_as_it_says_or_a_2d_image(tmp_path, kit):
    path = kit.save(tmp_path / "one.dcm", kit.slice_of(0))
    assert read(path).spacing_mm[0] == 2.5
    planar = read(path, ReadingOptions(planar=True))
    np.testing.assert_array_equal(planar.array, kit.voxels[:1])
    np.testing.assert_array_equal(planar.affine, np.eye(3))
    kit.save(path, kit.slice_of(0, SliceThickness=None))
    with pytest.raises(DataError, match=r"one\.dcm: one slice .*planar: true"):
        read(path)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "US", "XA"])
def test_a_picture_without_a_place_is_a_2d_image(tmp_path, kit, modality):
    path = kit.save(tmp_path / "x.dcm", kit.picture(kit.voxels[0], Modality=modality))
    volume, grid = read(path), read_grid(path)
    np.testing.assert_array_equal(volume.array, kit.voxels[:1])
    np.testing.assert_array_equal(volume.affine, np.eye(3))
    assert grid.shape == (6, 7)


def enhanced(kit, numbers=range(5), **changes):
    """Return an enhanced multi-frame object of slices of VOXELS, each with its own rescale."""
    dataset = kit.picture(kit.voxels[0], Modality="MR", NumberOfFrames=len(numbers), **changes)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    dataset.PixelData = kit.voxels[list(numbers)].tobytes()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [*kit.turn[0], *kit.turn[1]]
    measures.PixelSpacing = [kit.spacing_mm[1], kit.spacing_mm[0]]
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in numbers:
        position, rescale, frame = Dataset(), Dataset(), Dataset()
        place = kit.first_mm + kit.spacing_mm[2] * number * kit.turn[2]
        position.ImagePositionPatient = list(place)
        rescale.RescaleSlope, rescale.RescaleIntercept = 2.5 + number, -3
        frame.PlanePositionSequence = Sequence([position])
        frame.PixelValueTransformationSequence = Sequence([rescale])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def test_an_enhanced_object_is_the_series_it_could_have_been(tmp_path, series, kit):
    path = kit.save(tmp_path / "enhanced.dcm", enhanced(kit, [3, 0, 4, 1, 2]))
    for number in range(5):
        series.change(number, RescaleSlope=2.5 + number, RescaleIntercept=-3)
    one, many = read(path), read(series.folder)
    np.testing.assert_allclose(one.array, many.array, rtol=1e-6)
    np.testing.assert_allclose(one.affine, many.affine)


def test_slices_of_files_of_many_frames_may_alternate(tmp_path, kit):
    path = kit.save(tmp_path / "one.dcm", enhanced(kit))
    for name, numbers in (("even", [0, 2, 4]), ("odd", [1, 3])):
        kit.save(tmp_path / "many" / f"{name}.dcm", enhanced(kit, numbers))
    one, many = read(path), read(tmp_path / "many")
    np.testing.assert_array_equal(one.array, many.array)
    np.testing.assert_allclose(one.affine, many.affine)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [([0, 1, 1, 2], "again at 32.50 mm"), ([0, 1, 3, 4], "missing slices: 1, at 35.00 mm")],
)
def test_irregular_frames_are_refused_like_files(tmp_path, kit, numbers, reason):
    path = kit.save(tmp_path / "enhanced.dcm", enhanced(kit, numbers))
    with pytest.raises(DataError, match=rf"enhanced\.dcm: .*{reason}"):
        read(path)


def test_frames_that_are_not_all_described_are_refused(tmp_path, kit):
    path = kit.save(tmp_path / "e.dcm", enhanced(kit, range(5)))
    dataset = dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence.pop()
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"e\.dcm: says it has 5 frames and describes 4"):
        read(path)


def test_a_film_is_refused(tmp_path, kit):
    film = kit.picture(kit.voxels[0], Modality="US", NumberOfFrames=5)
    film.PixelData = kit.voxels.tobytes()
    with pytest.raises(DataError, match=r"film\.dcm: 5 of 5 pictures .* as in a film"):
        read(kit.save(tmp_path / "film.dcm", film))


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT", "RTDOSE", "SR"])
def test_what_is_no_image_is_refused_by_name(tmp_path, kit, modality):
    other = kit.picture(kit.voxels[0], Modality=modality)
    if modality == "SR":
        del other.Rows
    with pytest.raises(DataError, match=rf"o\.dcm: no image but {modality}"):
        read(kit.save(tmp_path / "o.dcm", other))


def test_what_is_too_large_is_refused_before_it_is_read(series):
    path = series.path(0)
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = 60_000
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"0\.dcm: takes 26\.8 GiB \(1 pictures of 60000x60000"):
        read(path)


@pytest.mark.parametrize("said", ["2147483647", "99999999999", "-3", "1A"])
def test_a_number_of_frames_that_is_made_up_is_refused(tmp_path, kit, said):
    dataset = kit.picture(kit.voxels[0])
    dataset.add_new("NumberOfFrames", "LO", said)
    path = kit.save(tmp_path / "many.dcm", dataset)
    path.write_bytes(path.read_bytes().replace(b"LO", b"IS"))
    with pytest.raises(DataError, match=r"many\.dcm: (takes|NumberOfFrames is not|its pixels)"):
        read(path)


def test_a_mosaic_is_refused(tmp_path, kit):
    mosaic = kit.slice_of(0, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    with pytest.raises(DataError, match=r"m\.dcm: mosaics, which show all slices"):
        read(kit.save(tmp_path / "m.dcm", mosaic))


def test_pixels_of_another_kind_than_the_header_says_are_refused(tmp_path, kit):
    colour = np.zeros((6, 7, 3), np.uint8)
    other = kit.picture(colour, PhotometricInterpretation="MONOCHROME2")
    with pytest.raises(DataError, match=r"o\.dcm: "):
        read(kit.save(tmp_path / "o.dcm", other))


def test_a_tilt_whose_correction_takes_too_much_memory_is_refused(series):
    tilt(series, 89.99)
    with pytest.raises(DataError, match=r"series: takes .* GiB \(5 pictures of"):
        read(series.folder, ReadingOptions(shear_correct=True, memory_gib=2**-12))


@pytest.mark.parametrize("place", [[1e30, 0, 0], [0, 0, -1e7]])
def test_a_place_nowhere_is_refused(series, place):
    series.change(4, ImagePositionPatient=place)
    with pytest.raises(DataError, match="ImagePositionPatient is not 3 numbers"):
        read(series.folder)
