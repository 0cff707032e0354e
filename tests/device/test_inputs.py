import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from medkd.data import images, nifti
from medkd.data.dicom.volume import read
from medkd.device.inputs import answer_name, find_inputs
from medkd.errors import DataError
from medkd.options import ReadingOptions, SeriesOptions

ANY = ReadingOptions()


@pytest.fixture
def study(tmp_path, write_series, mr_slice):
    """A study tree: a series a folder, two in one, and what is no image."""
    root = tmp_path / "study"
    write_series(root / "t1", series="t1")
    write_series(root / "sub" / "both", series="a")
    mixed = write_series(tmp_path / "other", series="b", seed=1)
    for file in mixed.iterdir():
        file.rename(root / "sub" / "both" / f"b-{file.name}")
    (root / "notes.txt").write_text("no image")
    seg = mr_slice("seg", 0, np.zeros((4, 4)))
    seg.Modality = "SEG"
    seg.save_as(root / "t1" / "seg.dcm", enforce_file_format=True)
    return root


def test_a_study_tree_gives_its_series_one_by_one(study):
    found = find_inputs([study], ANY)
    assert [len(each.files) for each in found] == [9, 9, 9]
    assert found[-1].name == "t1"
    assert [each.name.rpartition("/")[0] for each in found[:2]] == ["sub/both", "sub/both"]
    assert answer_name(found[-1], ".dcm") == "t1.dcm"


def test_series_that_share_a_folder_are_read_apart(study, tmp_path, write_series):
    alone = {
        series: read(write_series(tmp_path / f"alone-{series}", series=series, seed=seed)).array
        for series, seed in (("a", 0), ("b", 1))
    }
    got = [each.read(ANY).array for each in find_inputs([study], ANY)[:2]]
    matches = {(s, i) for s, a in alone.items() for i, b in enumerate(got) if (a == b).all()}
    assert {s for s, _ in matches} == {"a", "b"}
    assert {i for _, i in matches} == {0, 1}


def test_a_series_beside_files_that_are_no_image_of_it_is_read(study):
    assert find_inputs([study], ANY)[-1].read(ANY).shape == (9, 12, 14)


def test_an_error_names_the_folder_and_not_where_its_links_lay(study):
    for file in (study / "sub" / "both").glob("b-*"):
        file.write_bytes(file.read_bytes()[:-100])  # of its pixels
    told = []
    for each in find_inputs([study], ANY):
        try:
            each.read(ANY)
        except DataError as error:
            told.append(str(error))
    assert told
    assert all("study/sub/both" in message for message in told)


def test_files_and_folders_may_be_mixed_and_pictures_are_found_at_the_top_alone(tmp_path):
    picture = np.zeros((4, 5), np.uint8)
    images.write(tmp_path / "pictures" / "b.png", picture)
    images.write(tmp_path / "pictures" / "masks" / "b.png", picture)
    nifti.write(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.int16), affine=np.eye(4))
    found = find_inputs([tmp_path / "a.nii.gz", tmp_path / "pictures"], ANY)
    assert [each.name for each in found] == ["a.nii.gz", "b.png"]
    assert not any(each.files for each in found)


def test_of_several_series_those_are_meant_that_the_rule_of_the_release_fits(study):
    uid = dcmread(next((study / "sub" / "both").glob("b-*"))).SeriesInstanceUID
    (found,) = find_inputs([study], ReadingOptions(series=SeriesOptions(uid=uid)))
    assert found.name == "sub/both"
    assert {file.name[:2] for file in found.files} == {"b-"}
    with pytest.raises(DataError, match=r"preprocess\.reading\.series"):
        find_inputs([study], ReadingOptions(series=SeriesOptions(modality="CT")))


STUB = b"\0" * 128 + b"DICM\x02\0"


def empty(path):
    path.write_bytes(b"")


def damaged(path):
    path.write_bytes(STUB)


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("gone")


def link_in_a_circle(path):
    path.unlink()
    path.symlink_to(path.name)


def refused(image):
    with pytest.raises(DataError) as caught:
        image.read(ANY)
    where, _, told = str(caught.value).partition(f"{image.path}: ")
    assert not where
    return told


@pytest.mark.parametrize("harm", [empty, damaged, link_to_nothing, link_in_a_circle])
def test_no_series_of_a_folder_with_an_unreadable_file_is_answered_one_slice_short(study, harm):
    """The slice is the last one, so that the others are a regular stack."""
    last = study / "t1" / "002.dcm"
    assert dcmread(last).InstanceNumber == 9
    harm(last)
    *others, found = find_inputs([study], ANY)
    assert found.name == "t1"
    told = refused(found)
    assert told.startswith("1 file of this folder is unreadable: 002.dcm (")
    assert told.endswith("); mend or remove it")
    assert [each.read(ANY).shape for each in others] == [(9, 12, 14)] * 2


def test_all_series_that_share_a_folder_with_an_unreadable_file_fail(study):
    empty(study / "sub" / "both" / "bad.dcm")
    *both, other = find_inputs([study], ANY)
    assert [each.name.rpartition("/")[0] for each in both] == ["sub/both", "sub/both"]
    assert {refused(each) for each in both} == {
        "1 file of this folder is unreadable: bad.dcm (empty); mend or remove it"
    }
    assert other.read(ANY).shape == (9, 12, 14)


def test_each_unreadable_file_of_a_folder_is_told_with_its_reason(tmp_path):
    folder = tmp_path / "scans" / "sub"
    folder.mkdir(parents=True)
    (folder / "a.dcm").write_bytes(b"")
    (folder / "b.IMA").write_bytes(b"garbage")
    (folder / "c").write_bytes(STUB)
    (found,) = find_inputs([tmp_path / "scans"], ANY)
    assert found.name == "sub"
    assert refused(found) == (
        "3 files of this folder are unreadable: a.dcm (empty), b.IMA (not DICOM, as its name "
        "says), c (not a DICOM file); mend or remove them"
    )


def test_an_unreadable_file_fails_by_its_folder_where_the_rule_leaves_no_series(study):
    empty(study / "t1" / "002.dcm")
    (found,) = find_inputs([study], ReadingOptions(series=SeriesOptions(modality="CT")))
    assert found.name == "t1"
    assert "002.dcm (empty)" in refused(found)


@pytest.mark.parametrize("place", ["sub", "."])
def test_a_folder_that_cannot_be_listed_fails_by_its_name(study, monkeypatch, place):
    listed = {"scandir": os.scandir, "listdir": os.listdir}
    forbidden = study / place

    def refusing(name):
        def list_(path="."):
            if Path(path) == forbidden:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return listed[name](path)

        return list_

    for name in listed:
        monkeypatch.setattr(os, name, refusing(name))
    found = {each.name: each for each in find_inputs([study], ANY)}
    name = "sub" if place == "sub" else "study"
    assert found.keys() == ({"sub", "t1"} if place == "sub" else {"study"})
    told = "the folder cannot be listed (Permission denied); mend or remove it"
    assert refused(found[name]) == told


@pytest.mark.parametrize("target", ["gone", "b.nii.gz"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_a_link_that_leads_nowhere_fails_and_stops_no_other(tmp_path, target, by_folder):
    nifti.write(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.int16), affine=np.eye(4))
    (tmp_path / "b.nii.gz").symlink_to(target)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "c.nii.gz").symlink_to("gone")  # no input: of another format, and below
    files = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    good, bad = find_inputs([tmp_path] if by_folder else files, ANY)
    assert (good.name, bad.name) == ("a.nii.gz", "b.nii.gz")
    assert good.read(ANY).shape == (3, 3, 3)
    assert refused(bad).startswith("the file b.nii.gz cannot be read (")
    bad.path.resolve()  # answers ask for that, and refuse no link in a circle


def test_a_series_in_a_folder_behind_a_link_is_found(study, tmp_path):
    (study / "t1").rename(tmp_path / "moved")
    (study / "t1").symlink_to(tmp_path / "moved")
    (found,) = [each for each in find_inputs([study], ANY) if each.name == "t1"]
    assert found.read(ANY).shape == (9, 12, 14)


@pytest.mark.parametrize("source", [".", "..", "../t1"])
def test_a_folder_is_called_by_its_name_wherever_one_works(study, monkeypatch, source):
    shutil.rmtree(study / "sub")
    (study / "t1" / "deep").mkdir()
    monkeypatch.chdir(study / "t1" / ("deep" if source == ".." else ""))
    (found,) = find_inputs([Path(source)], ANY)
    assert answer_name(found, ".dcm") == "t1.dcm"
    assert found.read(ANY).shape == (9, 12, 14)


def test_files_of_one_name_are_told_apart_in_the_folder_one_works_in_too(tmp_path, monkeypatch):
    for folder in (tmp_path / "a", tmp_path / "b"):
        nifti.write(folder / "x.nii.gz", np.zeros((3, 3, 3), np.int16), affine=np.eye(4))
    monkeypatch.chdir(tmp_path / "a")
    found = find_inputs([Path("x.nii.gz"), Path("../b/x.nii.gz")], ANY)
    assert [each.name for each in found] == ["a/x.nii.gz", "b/x.nii.gz"]


NAMES = ("t1", "flair")


@pytest.fixture
def scans(tmp_path, scan):
    """Two cases of two modalities, one that lacks one, and a 4D file."""
    folder = tmp_path / "scans"
    for seed, name in enumerate(["a_t1", "a_flair", "b_0000", "b_0001", "c_flair"]):
        nifti.write(folder / f"{name}.nii.gz", scan((9, 8, 7), seed=seed), affine=np.eye(4))
    both = np.stack([scan((9, 8, 7), seed=seed) for seed in (0, 1)], axis=-1)
    nifti.write(folder / "all.nii.gz", both, affine=np.eye(4))
    return folder


def test_files_of_one_case_are_one_image(scans):
    found = {each.name: each for each in find_inputs([scans], ANY, NAMES)}
    assert list(found) == ["a.nii.gz", "all.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert [path.name for path in found["a.nii.gz"].modalities] == ["a_t1.nii.gz", "a_flair.nii.gz"]
    one, other = (found[name].read(ANY).array for name in ("a.nii.gz", "all.nii.gz"))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match=r"no file of t1; give c_t1\.nii\.gz as well"):
        found["c.nii.gz"].read(ANY)


def test_the_order_in_which_files_are_given_does_not_matter(scans):
    files = [scans / "a_t1.nii.gz", scans / "a_flair.nii.gz"]
    (one,), (other,) = (find_inputs(given, ANY, NAMES) for given in (files, files[::-1]))
    assert one == other


def test_two_files_of_a_modality_are_refused(scans):
    (scans / "b_0000.nii.gz").rename(scans / "a_0000.nii.gz")
    found = {each.name: each for each in find_inputs([scans], ANY, NAMES)}
    with pytest.raises(
        DataError, match=r"two files of t1: a_0000\.nii\.gz, a_t1\.nii\.gz; give one"
    ):
        found["a.nii.gz"].read(ANY)


def test_names_say_nothing_of_modalities_to_a_release_of_one(scans):
    assert len(find_inputs([scans], ANY)) == 6


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_names_that_files_give_are_no_paths(study, tmp_path):
    for file in (study / "sub" / "both").glob("b-*"):
        dataset = dcmread(file)
        dataset.SeriesInstanceUID = "/tmp/evil"
        dataset.save_as(file)
    np.savez(tmp_path / "many.npz", **{"../../evil/images": np.zeros((1, 4, 5), np.uint8)})
    found = find_inputs([study, tmp_path / "many.npz"], ANY)
    assert len(found) == 4
    assert not any("evil" in each.name or ".." in each.name for each in found)


def test_the_directory_of_a_medium_is_no_image(study):
    (study / "t1" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM\x02\0")
    assert len(find_inputs([study], ANY)) == 3


def test_inputs_of_one_name_are_told_apart_by_where_they_lie(tmp_path):
    for folder in "ab":
        nifti.write(tmp_path / folder / "x.nii.gz", np.zeros((3, 3, 3), np.int16), affine=np.eye(4))
    found = find_inputs([tmp_path / "a/x.nii.gz", tmp_path / "b/x.nii.gz"], ANY)
    assert [each.name for each in found] == ["a/x.nii.gz", "b/x.nii.gz"]
    with pytest.raises(DataError, match=r"a/x\.nii\.gz: several inputs are called so"):
        find_inputs([tmp_path / "a/x.nii.gz", tmp_path / "a/x.nii.gz"], ANY)


RULES = {name: SeriesOptions(description=f"*{name}*") for name in NAMES}
OF_STUDY = ReadingOptions(series_of=RULES)


@pytest.fixture
def patient(tmp_path, mr_slice):
    """Return a writer of a study with series of these descriptions, in a folder of each or one."""

    def write(*names, study="study", in_one=False, shape=(3, 6, 7)):
        root = tmp_path / study
        for value, name in enumerate(names, start=1):
            folder = root if in_one else root / f"{value}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(shape[0]):
                image = mr_slice(f"{value}", number, np.full(shape[1:], 10 * value), study=study)
                image.SeriesDescription = name
                image.FrameOfReferenceUID = "1.2.3"
                image.save_as(folder / f"{value}-{number}.dcm", enforce_file_format=True)
        return root

    return write


@pytest.mark.parametrize("in_one", [False, True])
def test_the_series_of_a_study_are_the_channels_of_one_image(patient, in_one):
    root = patient("ax FLAIR", "localizer", "ax T1", in_one=in_one)
    (found,) = find_inputs([root], OF_STUDY, NAMES)
    assert found.name == "study"
    assert {len(files) for files in (found.files, found.further)} == {3}
    volume = found.read(OF_STUDY)
    assert [volume.array[channel].max() for channel in (0, 1)] == [30, 10]
    with found.apart() as (first, second):
        assert (read(first).array == 30).all()
        assert (read(second).array == 10).all()


def test_studies_of_one_tree_are_told_apart(patient, tmp_path):
    patient("t1", "flair", study="a")
    patient("flair", "t1", study="b")
    found = find_inputs([tmp_path], OF_STUDY, NAMES)
    assert [each.name for each in found] == ["a", "b"]
    assert [each.read(OF_STUDY).array[0].max() for each in found] == [10, 20]


@pytest.mark.parametrize(
    ("names", "missing", "message"),
    [
        (("t1",), ("flair",), r"no series of flair, as .*series_of tells them, among: [\d.]+ \(MR"),
        (("dwi",), ("t1", "flair"), "no series of t1, flair"),
        (("t1", "t1 late", "flair"), (), r"2 series of t1: [\d.]+ \(MR, 3 files\), .* leave one"),
        (("t1 flair",), (), "one series is taken for t1 and for flair"),
    ],
)
def test_a_study_that_lacks_a_series_or_holds_several_is_refused(patient, names, missing, message):
    (found,) = find_inputs([patient(*names)], OF_STUDY, NAMES)
    assert found.missing == missing
    with pytest.raises(DataError, match=message):
        found.read(OF_STUDY)


def test_series_of_other_grids_are_refused_by_the_study_and_their_number(patient, mr_slice):
    root = patient("t1", "flair")
    (root / "2" / "2-2.dcm").unlink()
    (found,) = find_inputs([root], OF_STUDY, NAMES)
    with pytest.raises(DataError, match=r"/study \(series 2\): case study: .* 2x6x7 .*3x6x7"):
        found.read(OF_STUDY)


@pytest.mark.parametrize("place", ["2", "."])
def test_a_study_with_an_unreadable_file_in_a_folder_of_its_own_fails(patient, tmp_path, place):
    root = patient("t1", "flair")
    patient("t1", "flair", study="other")
    empty(root / place / "bad.dcm")
    other, found = find_inputs([tmp_path], OF_STUDY, NAMES)
    assert (other.name, found.name) == ("other", "study")
    where = "2: " if place == "2" else ""
    assert refused(found) == (
        f"{where}1 file of this folder is unreadable: bad.dcm (empty); mend or remove it"
    )
    assert other.read(OF_STUDY).shape == (3, 6, 7)


def test_a_study_waits_for_no_series_that_may_be_an_unreadable_file(patient):
    root = patient("t1", in_one=True)
    empty(root / "bad.dcm")
    (found,) = find_inputs([root], OF_STUDY, NAMES)
    assert not found.missing
    assert "bad.dcm (empty)" in refused(found)


def test_an_unreadable_file_in_a_folder_without_a_series_of_a_study_fails_alone(patient):
    root = patient("t1", "flair")
    (root / "3").mkdir()
    empty(root / "3" / "bad.dcm")
    bad, study = find_inputs([root], OF_STUDY, NAMES)
    assert (bad.name, study.name) == ("3", "study")
    assert "bad.dcm (empty)" in refused(bad)
    assert study.read(OF_STUDY).shape == (3, 6, 7)


def test_folders_of_a_series_each_are_told_apart_by_their_names(patient):
    root = patient("one", "other")
    (root / "1").rename(root / "p_flair")
    (root / "2").rename(root / "p_t1")
    (found,) = find_inputs([root], ANY, NAMES)
    assert (found.name, len(found.files), len(found.further)) == ("p", 3, 3)
    assert [found.read(ANY).array[channel].max() for channel in (0, 1)] == [20, 10]


def test_one_source_of_several_that_is_none_fails_alone(tmp_path):
    nifti.write(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.uint8), affine=np.eye(4))
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.npz").write_bytes(b"PK")
    sources = [tmp_path / name for name in ("b.npz", "empty", "gone.nii", "a.nii.gz")]
    *failed, whole = find_inputs(sources, ANY)
    assert whole.read(ANY).shape == (3, 3, 3)
    told = {each.name: each.lacks for each in failed}
    assert list(told) == ["b.npz", "empty", "gone.nii"]
    assert told["b.npz"].startswith("truncated or not an npz")
    for each in failed:
        with pytest.raises(DataError, match=each.path.name):
            each.read(ANY)
