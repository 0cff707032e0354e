import csv
import hashlib

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medkd.data import reader
from medkd.data.phantoms import LABELS, SITES, phantom, write_cohort

DEFAULT = {"shape": (48, 48, 28), "spacing_mm": (1.0, 1.0, 2.0)}
SMALL = {"shape": (24, 24, 14), "spacing_mm": (2.0, 2.0, 4.0)}
COHORT = {"cases": 6, "cases_per_patient": 2, "seed": 3, **SMALL}


@pytest.fixture(scope="module")
def thirty():
    return [phantom(**DEFAULT, seed=seed) for seed in range(30)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, **COHORT)
    with (folder / "cases.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_image_and_label_have_the_promised_types(thirty):
    for image, label in thirty:
        assert image.shape == label.shape == DEFAULT["shape"]
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert image.min() >= 0


def test_every_case_has_every_label_and_enough_of_the_lesion(thirty):
    for _, label in thirty:
        assert set(np.unique(label)) == {0, *LABELS.values()}
        assert (label == LABELS["lesion"]).sum() >= 60


def test_whole_organ_lies_in_the_field_of_view(thirty):
    for _, label in thirty:
        for axis in range(3):
            assert not np.take(label, [0, -1], axis=axis).any()


def test_core_is_wrapped_in_shell_and_lesion(thirty):
    for _, label in thirty:
        around = ndimage.binary_dilation(label == LABELS["core"]) & (label != LABELS["core"])
        assert (label[around] == 0).mean() < 0.01


def test_lesion_is_one_piece_off_the_centre(thirty):
    for _, label in thirty:
        _, pieces = ndimage.label(label == LABELS["lesion"])
        assert pieces == 1
    away = [
        np.subtract(*map(ndimage.center_of_mass, (y == LABELS["lesion"], y > 0))) for _, y in thirty
    ]
    assert np.mean(np.linalg.norm(np.multiply(away, DEFAULT["spacing_mm"]), axis=1)) > 3  # mm


@pytest.mark.parametrize("name", LABELS)
def test_brightness_alone_does_not_solve_it(thirty, name):
    best = []
    for image, label in thirty[:10]:
        edges = np.quantile(image, np.linspace(0, 1, 26))
        truth = label == LABELS[name]
        windows = [(low, high) for i, low in enumerate(edges) for high in edges[i + 1 :]]
        best.append(max(dice((image >= low) & (image <= high), truth) for low, high in windows))
    assert np.mean(best) < 0.6


def test_one_seed_gives_one_case():
    first, again, other = (phantom(**SMALL, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[1], other[1])


def test_visits_of_one_patient_are_alike_but_not_equal():
    def organ(seed, anatomy_seed):
        label = phantom(**DEFAULT, seed=seed, anatomy_seed=anatomy_seed)[1]
        middle = np.subtract(label.shape, 1) / 2
        return ndimage.shift(label, middle - ndimage.center_of_mass(label > 0), order=0) > 1

    first = [organ(seed, seed) for seed in range(4)]
    second = [organ(seed + 100, seed) for seed in range(4)]
    same = [dice(a, b) for a, b in zip(first, second, strict=True)]
    different = [dice(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if i != j]
    assert np.mean(same) > np.mean(different) + 0.1
    assert max(same) < 0.98


def test_noise_is_as_asked():
    corner = (slice(0, 4), slice(0, 4))
    calm, loud = (phantom(**DEFAULT, seed=5, noise=noise)[0] for noise in (0.02, 0.08))
    assert loud[corner].mean() == pytest.approx(4 * calm[corner].mean(), rel=0.05)


def test_flat_phantoms_have_every_label():
    for seed in range(10):
        image, label = phantom(shape=(96, 80), spacing_mm=(0.5, 0.6), seed=seed)
        assert image.shape == label.shape == (96, 80)
        assert set(np.unique(label)) == {0, 1, 2, 3}


@pytest.mark.parametrize("space", [SMALL, {"shape": (32, 32), "spacing_mm": (1.0, 1.0)}])
def test_one_seed_gives_the_same_bytes(tmp_path, space):
    def digests(folder):
        write_cohort(folder, **{**COHORT, **space, "cases": 3})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).digest() for p in files}

    first = digests(tmp_path / "first")
    assert len(first) == 7
    assert first == digests(tmp_path / "second")


def test_datalist_names_files_patients_and_sites(cohort):
    folder, rows = cohort
    assert list(rows[0]) == ["case", "image", "label", "patient", "site"]
    assert [row["patient"] for row in rows] == [f"patient_{i // 2:03d}" for i in range(6)]
    assert {row["site"] for row in rows} == {site.name for site in SITES}
    for row in rows:
        assert (folder / row["image"]).is_file()
        assert (folder / row["label"]).is_file()


def test_sites_store_other_axes_and_one_body(cohort):
    folder, rows = cohort
    axes = {site.name: site.axes for site in SITES}
    for row in rows:
        image, label = (nib.load(folder / row[kind]) for kind in ("image", "label"))
        assert "".join(nib.aff2axcodes(image.affine)) == axes[row["site"]]
        np.testing.assert_array_equal(image.affine, label.affine)
        canonical = nib.as_closest_canonical(label)
        assert canonical.header.get_zooms() == SMALL["spacing_mm"]
        # the organ is on the patient's right whatever the axis order
        x, _, _ = ndimage.center_of_mass(np.asarray(canonical.dataobj) > 0)
        assert x > SMALL["shape"][0] / 2


def test_files_hold_the_phantom(tmp_path):
    write_cohort(tmp_path, **{**COHORT, "cases": 1})
    volume = reader.read_image(tmp_path / "images" / "phantom_000.nii.gz")
    label = reader.read_label(tmp_path / "labels" / "phantom_000.nii.gz")
    assert volume.spacing_mm == SMALL["spacing_mm"]
    assert set(np.unique(label.array)) == {0, 1, 2, 3}
    assert volume.array.max() > 20 * label.array.max()


def test_flat_cohort_is_png(tmp_path):
    write_cohort(tmp_path, **{**COHORT, "shape": (64, 64), "spacing_mm": (1.0, 1.0), "cases": 1})
    image = reader.read_image(tmp_path / "images" / "phantom_000.png")
    label = reader.read_label(tmp_path / "labels" / "phantom_000.png")
    assert image.shape == label.shape == (64, 64)
    assert set(np.unique(label.array)) == {0, 1, 2, 3}
