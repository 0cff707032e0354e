"""MONAI's own command line is the judge, where medkd cannot be imported."""

import csv
import json
import subprocess
import sys
import zipfile

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from medkd.config import load as load_config
from medkd.data import images, nifti
from medkd.data.datalist import read_datalist
from medkd.data.modalities import read_modalities
from medkd.data.postprocess import postprocess, postprocess_apart
from medkd.data.preprocess import preprocess
from medkd.data.reader import read_image
from medkd.device import load
from medkd.export.bundle import export_bundle, open_bundle
from medkd.export.release import write_release
from medkd.models.checkpoint import load_checkpoint
from medkd.models.zoo import build_for
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.run import train_baseline

CONFIGS = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
NAMES = ("t1", "flair")
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 10], degrees=True).as_matrix()
OBLIQUE[:3, :3] *= [-0.9, 1.1, 2.3]  # mm, and from right to left
WITHOUT_MEDKD = """
import runpy, sys
sys.modules["medkd"] = None
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""
KINDS = {
    "volumes": ({"dims": 3}, []),
    "resampled volumes": (
        {"dims": 3},
        [
            "preprocess.spacing_mm=[1.3, 1.3, 1.6]",
            "postprocess.largest_component=[core]",
            "postprocess.fill_holes=[ball]",
        ],
    ),
    "overlapping volumes": (
        {"dims": 3, "overlapping": True},
        ["preprocess.spacing_mm=[1.3, 1.3, 1.6]"],
    ),
    "pictures": (
        {"dims": 2},
        ["preprocess.intensity=percentile", "data.labels={ball: 1, core: 2}"],
    ),
    "classes": ({"dims": 2, "task": "classification"}, ["preprocess.intensity=unit"]),
    "findings": (
        {"dims": 2, "task": "classification", "overlapping": True},
        ["preprocess.intensity=unit"],
    ),
}


def monai_bundle(folder, *arguments):
    pytest.importorskip("fire")
    pytest.importorskip("ignite")
    command = [sys.executable, "-c", WITHOUT_MEDKD, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundles(make_config, tmp_path_factory):
    """Return a maker of a bundle, a release of the same network, and the study's cases."""
    made = {}

    def make(kind):
        if kind not in made:
            options, overrides = KINDS[kind]
            path = make_config(**options)
            config = load_config(path, overrides=overrides)
            cases = read_datalist(Study(config, path))
            network = _settled(build_for(config, config.student.model), config)
            folder = tmp_path_factory.mktemp("bundle")
            export_bundle(network, folder, config, role="student", temperature=1.0)
            release = tmp_path_factory.mktemp("release")
            write_release(release, network, config, role="student", model={"name": "tiny"})
            made[kind] = folder, release, cases
        return made[kind]

    return make


@pytest.fixture(scope="module")
def trained(make_study, tmp_path_factory):
    """A bundle and a release of a network that has learned its task, and images to answer for."""
    options = ["steps=200", "validate_every=100", "learning_rate=0.01"]
    overrides = [f"student.train.{option}" for option in options]
    study, cohort = make_study("preprocess.spacing_mm=[1.1, 1.1, 1.3]", *overrides)
    network, found = load_checkpoint(train_baseline(study, cohort, tracker=NullTracker()))
    assert found.figures["dice"] > 0.6  # cores of a few voxels, on a coarser grid
    folder, release = (tmp_path_factory.mktemp(name) for name in ("bundle", "release"))
    export_bundle(network, folder, study.config, role="student", temperature=1.0)
    write_release(release, network, study.config, role="student", model={"name": "tiny"})
    return folder, release, list(cohort.cases.values())


def parsed(folder, **values):
    """Return the config of a bundle, with some values changed, in this process."""
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    for key, value in {"bundle_root": str(folder), **values}.items():
        parser[key] = value
    return parser


def export_untrained(folder, config):
    network = build_for(config, config.student.model).eval()
    export_bundle(network, folder, config, role="student", temperature=1.0)


def _settled(network, config):
    """Let batch norms see data, so that an untrained network answers something."""
    torch.manual_seed(0)
    window = (8, config.preprocess.channels, *config.preprocess.window)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(window))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volumes", "pictures", "classes"])
def test_what_the_network_takes_and_gives_is_described(bundles, kind):
    folder, _, _ = bundles(kind)
    said = monai_bundle(folder, "verify_net_in_out", "network_def", *CONFIGS)
    assert "verified with no error" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["volumes", "resampled volumes", "overlapping volumes", "pictures"]
)
def test_it_answers_as_the_release_for_a_folder_of_images(bundles, kind, tmp_path):
    folder, release, cases = bundles(kind)
    shown = show(cases, tmp_path / "images", oblique=kind == "resampled volumes")
    out = tmp_path / "out"
    monai_bundle(folder, "run", *CONFIGS, "--dataset_dir", shown[0].parent, "--output_dir", out)
    for path in shown:
        expected = load(release).answer(read_image(path)).mask
        actual = _read(out / path.name)
        if kind == "overlapping volumes":
            actual = np.moveaxis(actual, -1, 0)
        assert len(np.unique(expected)) > 1
        assert actual.shape == expected.shape
        assert (actual == expected).mean() > 0.999


@pytest.mark.slow
def test_what_was_trained_answers_as_its_release(trained, tmp_path):
    folder, release, cases = trained
    shown, out = show(cases, tmp_path / "images"), tmp_path / "out"
    monai_bundle(folder, "run", *CONFIGS, "--dataset_dir", shown[0].parent, "--output_dir", out)
    predictor, said = load(release), set()
    for path in shown:
        expected = predictor.answer(read_image(path)).mask
        said |= {*np.unique(expected).tolist()}
        assert (_read(out / path.name) == expected).mean() >= 0.999
    assert said == {0, 1, 2}


def show(cases, folder, *, oblique=False):
    """Put images into a folder of their own, on their own grid or on an oblique one."""
    for case in cases[:3]:
        volume = read_image(case.image)
        array = volume.array[0]
        if array.ndim == 3:
            affine = OBLIQUE if oblique else volume.affine
            nifti.write(folder / case.image.name, array, affine=affine)
        else:
            images.write(folder / case.image.name, array)
    return sorted(folder.iterdir())


def _read(path):
    return np.asarray(nibabel.load(path).dataobj if path.suffix == ".gz" else Image.open(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "findings"])
def test_it_writes_the_class_probabilities_of_a_folder(bundles, kind, tmp_path):
    folder, release, cases = bundles(kind)
    shown, out = show(cases, tmp_path / "images"), tmp_path / "out"
    monai_bundle(folder, "run", *CONFIGS, "--dataset_dir", shown[0].parent, "--output_dir", out)
    (table,) = out.glob("*.csv")
    with table.open() as file:
        rows = {row[0].rpartition("/")[2]: row[1:] for row in csv.reader(file)}
    for path in shown:
        expected = load(release).answer(read_image(path)).probabilities
        np.testing.assert_allclose(np.array(rows[path.name], float), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["volumes", "pictures", "classes"])
def test_no_path_of_this_machine_is_in_it(bundles, kind):
    files = [path for path in bundles(kind)[0].rglob("*") if path.is_file()]
    assert any(path.suffix == ".ts" for path in files)
    for path in files:
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for content in contents:
            assert b"site-packages" not in content
            assert sys.prefix.encode() not in content


def test_a_stock_network_comes_with_weights_that_are_no_pickle(bundles):
    folder, _, _ = bundles("volumes")
    definition = json.loads((folder / "configs" / "inference.json").read_text())["network_def"]
    assert definition["_target_"] == "monai.networks.nets.unet.UNet"
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    from monai.bundle.config_parser import ConfigParser

    network = ConfigParser({"network_def": definition}).get_parsed_content("network_def")
    network.load_state_dict(weights)
    window = torch.randn(1, 1, 16, 16, 16)
    expected = open_bundle(folder)(window)
    torch.testing.assert_close(network.eval()(window), expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_monai_does_not_have_is_torchscript_alone(make_config, tmp_path):
    model = "student.model={name: separable_unet, channels: [4, 8]}"
    config = load_config(make_config(dims=2), overrides=[model])
    export_untrained(tmp_path, config)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model.ts"]
    inference = json.loads((tmp_path / "configs" / "inference.json").read_text())
    assert inference["network_def"] == inference["network"]


RINGS = np.zeros((16, 16), np.uint8)
RINGS[:2, :2] = RINGS[:2, 14:] = RINGS[14:, :2] = 1  # pieces of one size
RINGS[4:13, 4:13], RINGS[5:12, 5:12] = 2, 0
RINGS[6:11, 6:11], RINGS[7:10, 7:10], RINGS[8, 8] = 1, 0, 2  # within the other ring
RINGS[4, 4] = 0  # a ring is closed without its corner


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
@pytest.mark.parametrize("order", ["[ball, core]", "[core, ball]"])
@pytest.mark.parametrize("kind", ["volumes", "pictures", "overlapping volumes"])
def test_masks_are_tidied_as_by_the_release(make_config, blob, tmp_path, kind, order):
    options, rules = KINDS[kind][0], ("largest_component", "fill_holes")
    overrides = [f"postprocess.{rule}={order}" for rule in rules] + ["preprocess.intensity=unit"]
    config = load_config(make_config(**options), overrides=overrides)
    export_untrained(tmp_path, config)
    masks = [np.stack([RINGS] * 16) if config.dims == 3 else RINGS]
    masks += [np.zeros_like(masks[0]), *(holey(blob, config.dims, seed=seed) for seed in range(4))]
    for mask in masks:
        if kind == "overlapping volumes":
            channels = np.stack([mask > 0, mask == 2]).astype(np.uint8)
            expected = postprocess_apart(channels, config.postprocess, config.classes)
        else:
            channels = np.stack([mask == value for value in range(3)])
            expected = postprocess(mask, config.postprocess, config.data.labels)
        assert (expected != (mask if expected.ndim == mask.ndim else channels)).any() == mask.any()
        np.testing.assert_array_equal(postprocessed(tmp_path, mask, channels), expected)
    assert ",scipy]" in (tmp_path / "docs" / "README.md").read_text()


def holey(blob, dims, *, seed):
    """Return a mask of two structures in pieces, in the larger of which there are holes."""
    hole, other = (blob((16,) * dims, seed=2 * seed + i, smooth=1.2) for i in range(2))
    return np.where(other, 1 + seed % 2, np.where(hole, 0, 2 - seed % 2)).astype(np.uint8)


def postprocessed(folder, image, channels):
    """Return the mask that a bundle in ``folder`` writes for channels that are there, or not."""
    path = folder / "images" / ("a.nii.gz" if image.ndim == 3 else "a.png")
    nifti.write(path, image, affine=np.eye(4)) if image.ndim == 3 else images.write(path, image)
    parser = parsed(folder, output_dir=str(folder / "out"))
    case = parser.get_parsed_content("preprocessing")({"image": str(path)})
    case["pred"] = torch.tensor(8.0 * channels - 4, dtype=torch.float32)
    parser.get_parsed_content("postprocessing")(case)
    mask = _read(folder / "out" / path.name)
    return np.moveaxis(mask, -1, 0) if mask.ndim == 4 else mask


def test_what_a_bundle_does_not_do_is_said(make_config, tmp_path):
    for given in ("false", "true"):
        overrides = [f"postprocess.argmax_first={given}"]
        export_untrained(tmp_path, load_config(make_config(), overrides=overrides))
        said = (tmp_path / "docs" / "README.md").read_text()
        assert ("the release decides on the network's" in said) == (given == "true")
        assert "scipy" not in said


RANGES = {
    "uint8.png": (0, 255),
    "uint16.png": (0, 65535),
    "uint8.nii.gz": (0, 255),
    "int16.nii.gz": (-1024, 32767),
    "uint16.nii.gz": (0, 65535),
    "float32.nii.gz": (0, 1),
}
SHOWN = [(name, 1) for name in RANGES] + [(name, 3) for name in RANGES if name.endswith(".png")]


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
@pytest.mark.parametrize("intensity", ["unit", "percentile"])
@pytest.mark.parametrize(("name", "channels"), SHOWN)
def test_intensities_are_scaled_by_the_type_of_the_image(
    make_config, tmp_path, name, channels, intensity
):
    dtype, _, suffix = name.partition(".")
    dims = 2 if suffix == "png" else 3
    overrides = [f"preprocess.intensity={intensity}", f"preprocess.channels={channels}"]
    config = load_config(make_config(dims=dims), overrides=overrides)
    export_untrained(tmp_path, config)
    array = np.random.default_rng(0).uniform(*RANGES[name], (16, 17, 18)[:dims]).astype(dtype)
    path = tmp_path / name
    images.write(path, array) if dims == 2 else nifti.write(path, array, affine=np.eye(4))
    given = parsed(tmp_path).get_parsed_content("preprocessing")({"image": str(path)})["image"]
    expected, _ = preprocess(read_image(path), config.preprocess)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert intensity == "percentile" or 0.9 < expected.max() <= 1


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_files_of_one_case_are_the_channels_of_one_image(make_config, tmp_path):
    overrides = ["preprocess.channels=2", "preprocess.modalities=[t1, flair]"]
    config = load_config(make_config(dims=3), overrides=overrides)
    export_untrained(tmp_path, config)
    rng, shape = np.random.default_rng(0), (16, 17, 18)
    for name in ("a_t1", "a_flair", "b_t1", "b_flair"):
        nifti.write(tmp_path / "images" / f"{name}.nii.gz", rng.normal(size=shape), affine=OBLIQUE)
    both = [read_image(tmp_path / "images" / f"b_{name}.nii.gz").array[0] for name in NAMES]
    nifti.write(tmp_path / "images" / "c.nii.gz", np.stack(both, axis=-1), affine=OBLIQUE)
    a, b, c = parsed(tmp_path).get_parsed_content("dataset")
    paths = [tmp_path / "images" / f"a_{name}.nii.gz" for name in NAMES]
    expected, _ = preprocess(read_modalities(paths, case="a"), config.preprocess)
    np.testing.assert_allclose(a["image"], expected, atol=1e-4)
    np.testing.assert_allclose(b["image"], c["image"], atol=1e-4)
    assert "`CASE_flair.nii.gz`" in (tmp_path / "docs" / "README.md").read_text()
