import json

import numpy as np
import pytest

from medkd.device import load
from medkd.device.choice import CHOICE
from medkd.device.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest
from medkd.errors import ReleaseError
from medkd.types import Activation


def test_a_sound_release_is_read_as_it_was_written(release_3d):
    manifest = read_manifest(release_3d)
    assert manifest == Manifest.model_validate_json((release_3d / MANIFEST).read_text())
    assert manifest.label_values == (0, 7, 255)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_is_found(release_3d, changed, place):
    weights = changed(release_3d) / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[place] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ReleaseError, match=f"{WEIGHTS}: differs from the SHA-256.*copy it again"):
        load(weights.parent)


def test_weights_that_the_manifest_does_not_name_are_not_loaded(release_3d, changed):
    with pytest.raises(ReleaseError, match=r"no digest of model\.onnx; export it again"):
        load(changed(release_3d, files={}))


def test_a_missing_file_is_found(release_3d, changed):
    folder = changed(release_3d)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ReleaseError, match=f"{WEIGHTS}: the manifest names it, but it is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/hostname"])
def test_a_name_that_leaves_the_folder_is_refused(release_3d, changed, name):
    folder = changed(release_3d, files={name: "0" * 64})
    (folder.parent / "x").write_text("outside")
    with pytest.raises(ReleaseError, match="leaves the release folder; refused"):
        load(folder)


def test_a_link_that_leaves_the_folder_is_refused(release_3d, changed):
    folder = changed(release_3d)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(release_3d / WEIGHTS)
    with pytest.raises(ReleaseError, match="leaves the release folder; refused"):
        load(folder)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop"])
def test_a_name_that_no_file_has_is_refused(release_3d, changed, name):
    folder = changed(release_3d, files={name: "0" * 64})
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ReleaseError, match=r"refused|cannot be read|is missing"):
        load(folder)


GUARD = {
    "features": ["mean intensity", "noise"],
    "centre": [0, 0],
    "scale": [1, 1],
    "precision": [[1, 0], [0, 1]],
    "limit": 2,
    "seen": [[0, 1], [0, 1]],
}
PROMISE = {"promised": 0.9, "cases": 9}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"temperature": -1.5}, "temperature: .* not positive"),
        ({"temperature": 0}, "temperature: .* not positive"),
        ({"temperature": float("nan")}, "temperature: .* not positive"),
        ({"temperature": [1, 2]}, "temperature: .* one a class"),
        ({"classes": ["background", "organ", "organ"]}, "classes: .* different names"),
        ({"classes": []}, "classes: .* different names"),
        ({"label_values": [0, 7, 7]}, "label_values: .* 3 different values"),
        ({"label_values": [0, 7]}, "label_values: .* 3 different values"),
        ({"label_values": [0, -1, 7]}, "label_values: .* from 0 to 65535"),
        ({"label_values": [0, 7, 70000]}, "label_values: .* from 0 to 65535"),
        ({"label_values": [3, 7, 255]}, "label_values: a softmax with 3 for the first"),
        ({"activation": "sigmoid"}, "label_values: a sigmoid with 0 for the first"),
        ({"postprocess": {"fill_holes": ["liver"]}}, "postprocess.fill_holes: liver is none"),
        ({"conformal": PROMISE | {"thresholds": {"liver": 0.5}}}, "conformal.*: liver is none"),
        ({"operating_points": {"liver": 0.5}}, "operating_points: liver is none"),
        ({"guard": GUARD | {"limit": float("inf")}}, "guard.limit"),
        ({"guard": GUARD | {"centre": [0]}}, "not of 2 features"),
        ({"guard": GUARD | {"precision": [[1, 0], [0]]}}, "not of 2 features"),
        ({"guard": GUARD | {"scale": [1, 0]}}, "not of 2 features"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(release_3d, changed, values, reason):
    with pytest.raises(ReleaseError, match=f"(?s)damaged .*{reason}.*export the release again"):
        load(changed(release_3d, **values))


def test_a_set_of_classes_has_one_threshold(release_classes, changed):
    promise = PROMISE | {"thresholds": {"dark": 0.5, "bright": 0.5}}
    with pytest.raises(ReleaseError, match="a set of classes has one"):
        load(changed(release_classes, conformal=promise))


def test_a_manifest_without_end_is_refused(release_3d, changed):
    folder = changed(release_3d)
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ReleaseError, match="damaged"):
        load(folder)


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_another_version_is_refused(release_3d, changed, version):
    with pytest.raises(ReleaseError, match=f"format version {version}, .* reads 2; export it"):
        load(changed(release_3d, version=version))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "\ufeff{}", '{"version": 2}'])
def test_a_damaged_manifest_is_refused(release_3d, changed, text):
    folder = changed(release_3d)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ReleaseError, match=rf"{MANIFEST}: (damaged|format version None)"):
        load(folder)


def test_a_manifest_that_is_no_text_is_refused(release_3d, changed):
    folder = changed(release_3d)
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReleaseError, match="damaged"):
        load(folder)


@pytest.mark.parametrize("values", [{"surprise": 1}, {"task": "guess"}, {"temperature": None}])
def test_unknown_keys_and_values_are_refused(release_3d, changed, values):
    with pytest.raises(ReleaseError, match=f"(?s)damaged .*{next(iter(values))}"):
        load(changed(release_3d, **values))


def test_a_folder_without_manifest_is_no_release(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ReleaseError, match=r"not a release \(no manifest\.json\)"):
            load(folder)


def test_a_manifest_names_every_file_by_its_digest(release_3d):
    files = json.loads((release_3d / MANIFEST).read_text())["files"]
    assert set(files) == {path.name for path in release_3d.iterdir()} - {MANIFEST, CHOICE}


def test_masks_are_found_in_an_answer_with_and_without_overlaps(release_3d, release_overlapping):
    exclusive, overlapping = (read_manifest(r) for r in (release_3d, release_overlapping))
    assert exclusive.structures == overlapping.structures == ("organ", "lesion")
    found = [m.tolist() for m in exclusive.masks(np.array([0, 7, 255, 7]))]
    assert found == [[False, True, False, True], [False, False, True, False]]
    found = [m.tolist() for m in overlapping.masks(np.array([[0, 1, 1], [0, 0, 1]]))]
    assert found == [[False, True, True], [False, False, True]]


def test_a_release_that_says_nothing_of_its_activation_is_a_softmax(release_3d, changed):
    path = changed(release_3d) / MANIFEST
    values = json.loads(path.read_text())
    del values["activation"]
    path.write_text(json.dumps(values))
    assert read_manifest(path.parent).activation is Activation.SOFTMAX
