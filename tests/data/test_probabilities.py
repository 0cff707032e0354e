import re

import numpy as np
import pytest

from medkd.data import nifti
from medkd.data.preprocess import preprocess
from medkd.data.probabilities import read_class_probabilities, read_probabilities
from medkd.errors import DataError
from medkd.options import PreprocessOptions
from medkd.types import Volume

SHAPE, CLASSES = (5, 6, 7), 3
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.fixture
def said():
    """Probabilities that no flip, transposition or permutation of classes leaves alike."""
    p = np.random.default_rng(0).dirichlet([1, 2, 3], size=SHAPE).astype(np.float32)
    return np.moveaxis(p, -1, 0)


@pytest.fixture
def grid():
    options = PreprocessOptions(orientation="LPS", window=(4, 4, 4))
    image = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
    return preprocess(Volume(array=image, affine=AFFINE), options)[1]


def nnunet(folder, p):
    """Write what nnU-Net's ``--save_probabilities`` does: SimpleITK's order of axes."""
    np.savez_compressed(folder / "c1.npz", probabilities=p.transpose(0, 3, 2, 1))


def four_axes(folder, p):
    nifti.write(folder / "c1.nii.gz", np.moveaxis(p, 0, -1), affine=AFFINE)


def file_a_class(folder, p):
    for index, one in enumerate(p):
        nifti.write(folder / f"c1_{index}.nii.gz", one, affine=AFFINE)


@pytest.mark.parametrize("save", [nnunet, four_axes, file_a_class])
def test_every_form_is_read_onto_the_images_own_grid(tmp_path, grid, said, save):
    save(tmp_path, said)
    found = read_probabilities(tmp_path, "c1", grid, channels=CLASSES)
    np.testing.assert_allclose(found, said, atol=1e-6)


def test_the_files_of_ten_classes_and_more_keep_their_order(tmp_path, grid):
    said = np.moveaxis(np.random.default_rng(0).dirichlet(np.ones(12), size=SHAPE), -1, 0)
    file_a_class(tmp_path, said.astype(np.float32))
    found = read_probabilities(tmp_path, "c1", grid, channels=12)
    np.testing.assert_allclose(found, said, atol=1e-6)


def test_a_case_whose_name_begins_with_anothers_is_not_mistaken_for_it(tmp_path, grid, said):
    file_a_class(tmp_path, said)
    nifti.write(tmp_path / "c1_left_0.nii.gz", said[0], affine=AFFINE)
    assert read_probabilities(tmp_path, "c1", grid, channels=CLASSES).shape == (CLASSES, *SHAPE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:, 1:], r"grid \(4, 6, 7\), image grid \(5, 6, 7\)"),
        (lambda p: p[:2], "2 channels, but the teacher has 3 classes"),
        (lambda p: 5 * p, "softmax probabilities, not logits or masks"),
        (lambda p: p - 0.5, "softmax probabilities, not logits or masks"),
        (lambda p: p * np.nan, "softmax probabilities, not logits or masks"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_file(tmp_path, grid, said, spoil, message):
    nnunet(tmp_path, spoil(said))
    with pytest.raises(DataError, match=message) as refused:
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES)
    assert "c1.npz" in str(refused.value)


def test_another_place_in_space_is_refused(tmp_path, grid, said):
    moved = AFFINE.copy()
    moved[0, 3] = 1.5
    nifti.write(tmp_path / "c1.nii.gz", np.moveaxis(said, 0, -1), affine=moved)
    with pytest.raises(DataError, match=r"lies up to 1.50 mm from its image"):
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES)


def test_a_missing_case_is_named_with_what_was_expected(tmp_path, grid):
    with pytest.raises(DataError, match=r"no probabilities of case c1; expected c1\.npz"):
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES)


def test_a_pickle_in_an_npz_is_not_opened(tmp_path, grid):
    np.savez(tmp_path / "c1.npz", probabilities=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=re.escape("c1.npz: not an .npz of probabilities")):
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES)


class TestClassification:
    @pytest.fixture
    def table(self, tmp_path):
        path = tmp_path / "p.csv"
        path.write_text("case,large,small\nb,0.25,0.75\na,0.5,0.5\n")
        return path

    def test_columns_are_taken_by_name_and_rows_by_case(self, table):
        found = read_class_probabilities(table, classes=["small", "large"])
        assert found.keys() == {"a", "b"}
        np.testing.assert_allclose(found["b"], [0.75, 0.25])

    def test_a_missing_class_is_refused(self, table):
        with pytest.raises(DataError, match="no column huge; it needs case and each class"):
            read_class_probabilities(table, classes=["small", "huge"])

    @pytest.mark.parametrize("row", ["c,0.5,", "c,0.5,much", "c,0.5,0.9"])
    def test_what_are_no_probabilities_is_refused(self, table, row):
        table.write_text(table.read_text() + row)
        with pytest.raises(DataError, match=re.escape(str(table))):
            read_class_probabilities(table, classes=["small", "large"])


def test_structures_that_overlap_need_not_sum_to_one(tmp_path, grid):
    p = np.random.default_rng(0).random((CLASSES, *SHAPE)).astype(np.float32)
    four_axes(tmp_path, p)
    with pytest.raises(DataError, match="whose sum over classes"):
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES)
    found = read_probabilities(tmp_path, "c1", grid, channels=CLASSES, exclusive=False)
    np.testing.assert_allclose(found, p, atol=1e-6)
    four_axes(tmp_path, 8 * p - 4)
    with pytest.raises(DataError, match="the probability of each class, not its logit"):
        read_probabilities(tmp_path, "c1", grid, channels=CLASSES, exclusive=False)


def test_findings_that_may_come_together_need_not_sum_to_one(tmp_path):
    (tmp_path / "p.csv").write_text("case,nodule,effusion\na,0.75,0.5\nb,0,0\n")
    named = ["effusion", "nodule"]
    found = read_class_probabilities(tmp_path / "p.csv", classes=named, exclusive=False)
    np.testing.assert_allclose(found["a"], [0.5, 0.75])
    with pytest.raises(DataError, match="whose sum over classes"):
        read_class_probabilities(tmp_path / "p.csv", classes=named)
    (tmp_path / "p.csv").write_text("case,nodule,effusion\na,-3,2\n")
    with pytest.raises(DataError, match="the probability of each class, not its logit"):
        read_class_probabilities(tmp_path / "p.csv", classes=named, exclusive=False)
