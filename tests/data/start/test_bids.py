import numpy as np
import pytest

from medkd.data import nifti
from medkd.data.start.bids import recognise
from medkd.errors import DataError
from tests.conftest import ball


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_sessions_of_a_subject_are_one_patient(lay_out, tmp_path):
    found = recognise(lay_out("BIDS derivative", tmp_path / "b"))
    assert {row.patient for row in found.rows} == {f"sub-{n:02d}" for n in range(6)}
    assert {row.attributes["session"] for row in found.rows} == {"ses-1", "ses-2"}
    assert all(row.case in row.image.name and row.case in row.label.name for row in found.rows)


def test_images_that_a_label_does_not_choose_between_are_refused(tmp_path):
    images = [f"sub-01/anat/sub-01_{kind}.nii.gz" for kind in ("acq-b_T1w", "T1w")]
    touched(tmp_path, *images, "sub-01/func/sub-01_task-rest_bold.nii.gz")
    label = "derivatives/x/sub-01/anat/sub-01_dseg.nii.gz"
    with pytest.raises(DataError, match=r"sub-01 has 2 images: .*, .*; keep one"):
        recognise(touched(tmp_path, label))
    (tmp_path / images[0]).unlink()
    assert [row.image for row in recognise(tmp_path).rows] == [tmp_path / images[1]]
    touched(tmp_path, "derivatives/x/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz")
    with pytest.raises(DataError, match="sub-01 has 2 labels"):
        recognise(tmp_path)


def test_of_several_kinds_of_image_those_of_all_cases_on_the_label_s_voxels_are_taken(
    lay_out, tmp_path
):
    folder = lay_out("BIDS of two modalities", tmp_path / "b")
    found = recognise(folder)
    assert found.modalities == ("flair", "t1w")
    assert [path.name for path in (found.rows[0].image, *found.rows[0].further)] == [
        f"sub-00_ses-1_{kind}.nii.gz" for kind in ("FLAIR", "T1w")
    ]
    image = ball(3, seed=1)[0][:, :, 1:]
    nifti.write(found.rows[3].image, image, affine=np.eye(4))
    found = recognise(folder)
    assert found.modalities == ()
    assert all(row.image.name.endswith("_T1w.nii.gz") and not row.further for row in found.rows)
    assert "images FLAIR are left out" in found.remarks[0]


def test_of_fmriprep_the_segmentation_in_the_subject_s_own_space_is_taken(tmp_path):
    for space in ("", "space-MNI152NLin2009cAsym_res-2_"):
        names = ("desc-preproc_T1w", "desc-brain_mask", "dseg", "label-GM_probseg")
        touched(tmp_path, *(f"sub-01/anat/sub-01_{space}{name}.nii.gz" for name in names))
    (row,) = recognise(tmp_path).rows
    assert row.image.name == "sub-01_desc-preproc_T1w.nii.gz"
    assert row.label.name == "sub-01_dseg.nii.gz"
    assert (row.case, row.patient) == ("sub-01", "sub-01")


def test_a_table_of_names_in_another_encoding_is_refused(lay_out, tmp_path):
    folder = lay_out("BIDS derivative", tmp_path / "b")
    names = folder / "derivatives/manual/dseg.tsv"
    names.write_bytes("index\tname\n1\tK\xf6rper\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dseg\.tsv: no text in UTF-8"):
        recognise(folder)
