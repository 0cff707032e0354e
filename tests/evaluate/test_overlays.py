import numpy as np
import pytest
from matplotlib.figure import Figure  # noqa: TID253
from PIL import Image

from medkd.evaluate.overlays import DIFFERS, draw_overlay
from medkd.types import Volume

STRUCTURES = ("ball", "core")
MASKS = ("reference", "teacher", "student", DIFFERS)


@pytest.fixture
def figures(monkeypatch):
    """Keep every figure that is saved."""
    saved = []
    save = Figure.savefig

    def keep(figure, path, **options):
        saved.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def masks(shape):
    reference = np.zeros(shape, int)
    reference[(slice(4, 9),) * len(shape)] = 1
    student = np.roll(reference, 2, axis=0)
    differs = (reference != student).astype(int)
    return {"reference": reference, "teacher": reference, "student": student, DIFFERS: differs}


def volume(shape, *, channels=1, affine=None):
    array = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    return Volume(array=array, affine=np.eye(len(shape) + 1) if affine is None else affine)


def drawn_slice(axis):
    return np.asarray(axis.images[0].get_array())


@pytest.mark.parametrize(("shape", "channels"), [((12, 14), 1), ((12, 14), 3), ((12, 14, 16), 1)])
def test_every_mask_has_a_panel_and_so_has_disagreement(tmp_path, figures, shape, channels):
    path = tmp_path / "overlays" / "worst-1.png"
    image = volume(shape, channels=channels)
    draw_overlay(path, image, masks(shape), structures=STRUCTURES, title="worst 1: case-1")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    titles = [axis.get_title() for axis in figures[0].axes]
    assert titles == ["image", "reference", "teacher", "student", "teacher ≠ student"]
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["ball", "core"]


def test_disagreement_shows_exactly_where_the_masks_differ(tmp_path, figures):
    given = masks((12, 14))
    draw_overlay(tmp_path / "a.png", volume((12, 14)), given, structures=STRUCTURES, title="")
    shown = np.asarray(figures[0].axes[-1].images[1].get_array())[..., 3] > 0
    np.testing.assert_array_equal(shown, given["teacher"] != given["student"])


def test_the_slice_is_the_axial_one_where_the_reference_is_largest(tmp_path, figures):
    image, given = volume((12, 14, 16)), masks((12, 14, 16))
    given["reference"][2:11, 2:11, 6] = 1
    draw_overlay(tmp_path / "a.png", image, given, structures=STRUCTURES, title="")
    shown = np.asarray(figures[0].axes[1].images[1].get_array())[..., 3] > 0
    np.testing.assert_array_equal(shown, np.rot90(given["reference"][:, :, 6]) > 0)


def test_a_volume_stored_another_way_round_gives_the_same_picture(tmp_path, figures):
    image, given = volume((12, 14, 16)), masks((12, 14, 16))
    draw_overlay(tmp_path / "a.png", image, given, structures=STRUCTURES, title="")
    turned = Volume(
        array=np.flip(image.array.transpose(0, 3, 1, 2), axis=2).copy(),
        affine=np.array([[0, -1, 0, 11], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float),
    )
    also = {name: np.flip(mask.transpose(2, 0, 1), axis=1) for name, mask in given.items()}
    draw_overlay(tmp_path / "b.png", turned, also, structures=STRUCTURES, title="")
    for one, other in zip(figures[0].axes, figures[1].axes, strict=True):
        np.testing.assert_allclose(drawn_slice(one), drawn_slice(other))


def test_thick_slices_are_shown_in_their_true_proportions(tmp_path, figures):
    affine = np.diag([1.0, 3.0, 2.0, 1.0])
    image = volume((12, 14, 16), affine=affine)
    draw_overlay(tmp_path / "a.png", image, masks((12, 14, 16)), structures=STRUCTURES, title="")
    assert figures[0].axes[0].get_aspect() == pytest.approx(3.0)


def test_an_empty_reference_and_a_flat_image_are_drawn(tmp_path):
    flat = Volume(array=np.zeros((1, 12, 14, 16), np.float32), affine=np.eye(4))
    empty = {name: np.zeros((12, 14, 16), int) for name in MASKS}
    draw_overlay(tmp_path / "a.png", flat, empty, structures=STRUCTURES, title="")
    assert (tmp_path / "a.png").is_file()


def test_the_seventh_structure_repeats_the_first_colour(tmp_path):
    many = {name: np.arange(144).reshape(12, 12) % 9 for name in MASKS}
    draw_overlay(tmp_path / "a.png", volume((12, 12)), many, structures="abcdefgh", title="")
    assert (tmp_path / "a.png").is_file()
