"""Small data sets of twelve cases, one a layout."""

import csv
import json

import numpy as np
import pytest

from tests.conftest import ball


def volume(folder, name, *, seed, label_to=None):
    from medkd.data import nifti

    image, label = ball(3, seed=seed)
    nifti.write(folder / name, image.astype(np.float32), affine=np.diag([1.0, 1, 1, 1]))
    if label_to:
        nifti.write(label_to, label, affine=np.eye(4))


def picture(path, *, seed, label_to=None, value=1):
    from medkd.data import images

    image, label = ball(2, seed=seed)
    images.write(path, np.clip(image / 2, 0, 255).astype(np.uint8))
    if label_to:
        images.write(label_to, (label > 0).astype(np.uint8) * value)


def decathlon(folder):
    entries = []
    for n in range(12):
        volume(
            folder / "imagesTr",
            f"a{n}.nii.gz",
            seed=n,
            label_to=folder / "labelsTr" / f"a{n}.nii.gz",
        )
        entries.append({"image": f"./imagesTr/a{n}.nii.gz", "label": f"./labelsTr/a{n}.nii.gz"})
    told = {"name": "Balls", "licence": "CC0", "modality": {"0": "MRI"}, "training": entries}
    told["labels"] = {"0": "background", "1": "Ball", "2": "Core of it"}
    (folder / "dataset.json").write_text(json.dumps(told))
    with (folder / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["scan", "patient_id", "site"], *([f"a{n}", f"p{n // 2}", "n"] for n in range(12))]
        )


def nnunet(folder):
    for n in range(12):
        volume(
            folder / "imagesTr",
            f"b_{n:03d}_0000.nii.gz",
            seed=n,
            label_to=folder / "labelsTr" / f"b_{n:03d}.nii.gz",
        )
    told = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz", "numTraining": 12}
    told["labels"] = {"background": 0, "ball": 1, "core": 2}
    (folder / "dataset.json").write_text(json.dumps(told))


def second_channel(folder):
    """Give each image of ``nnunet`` a second channel, in a file of its own."""
    from medkd.data import nifti

    for path in sorted((folder / "imagesTr").glob("*_0000.nii.gz")):
        first = nifti.read(path)
        second = path.with_name(path.name.replace("_0000", "_0001"))
        nifti.write(second, 5 - first.array[0] / 100, affine=first.affine)
    told = json.loads((folder / "dataset.json").read_text())
    told["channel_names"] = {"0": "T1", "1": "T2 FLAIR"}
    (folder / "dataset.json").write_text(json.dumps(told))


def nnunet_two(folder):
    nnunet(folder)
    second_channel(folder)


def nnunet_regions(folder):
    """Let the core be of the ball too; and in a corner of each label nobody has judged."""
    from medkd.data import nifti

    nnunet(folder)
    for path in (folder / "labelsTr").iterdir():
        label = nifti.read(path)
        label.array[0, :2, :2] = 3
        nifti.write(path, label.array[0].astype(np.uint8), affine=label.affine)
    told = json.loads((folder / "dataset.json").read_text())
    told["labels"] = {"background": 0, "ball": [1, 2], "core": 2, "ignore": 3}
    told["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(told))


def decathlon_masks(folder):
    """Labels of a channel a structure."""
    from medkd.data import nifti

    decathlon(folder)
    for path in (folder / "labelsTr").iterdir():
        label = nifti.read(path)
        masks = np.stack([label.array[0] >= 1, label.array[0] == 2], axis=-1)
        nifti.write(path, masks.astype(np.uint8), affine=label.affine)


def decathlon_two(folder):
    """Two modalities in one 4D file a case."""
    from medkd.data import nifti

    decathlon(folder)
    for path in (folder / "imagesTr").iterdir():
        first = nifti.read(path)
        both = np.stack([first.array[0], 5 - first.array[0] / 100], axis=-1)
        nifti.write(path, both, affine=first.affine)
    told = json.loads((folder / "dataset.json").read_text())
    told["modality"] = {"0": "FLAIR", "1": "T1w"}
    (folder / "dataset.json").write_text(json.dumps(told))


def bids(folder):
    for n in range(12):
        subject, session = f"sub-{n // 2:02d}", f"ses-{n % 2 + 1}"
        name = f"{subject}_{session}"
        place = folder / "derivatives/manual" / subject / session / "anat"
        volume(
            folder / subject / session / "anat",
            f"{name}_T1w.nii.gz",
            seed=n,
            label_to=place / f"{name}_dseg.nii.gz",
        )
    (folder / "derivatives/manual/dseg.tsv").write_text("index\tname\n1\tBall\n2\tCore\n")
    people = [f"sub-{n:02d}\t{40 + n}" for n in range(6)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tage", *people]) + "\n")


def medmnist(folder):
    folder.mkdir(parents=True)
    rng, arrays = np.random.default_rng(0), {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 255, (12, 16, 16), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(12)[:, None] % 2
    np.savez(folder / "small.npz", **arrays)


def pairs(folder):
    for n in range(12):
        picture(
            folder / "images" / f"c{n}.png",
            seed=n,
            value=255,
            label_to=folder / "masks" / f"c{n}_mask.png",
        )


def flat(folder):
    for n in range(12):
        picture(folder / f"d{n}.png", seed=n, label_to=folder / f"d{n}_seg.png")


def classes(folder):
    for n in range(24):
        picture(folder / ("small", "large one")[n % 2] / f"e{n}.png", seed=n)


def parted(folder):
    for first, part in enumerate(("train", "val", "test")):
        for n in range(8):
            picture(folder / part / ("small", "large")[n % 2] / f"e{n}.png", seed=8 * first + n)


MAKERS = {
    "Decathlon": decathlon,
    "Decathlon, two modalities": decathlon_two,
    "Decathlon, a mask each": decathlon_masks,
    "nnU-Net raw": nnunet,
    "nnU-Net raw, regions": nnunet_regions,
    "nnU-Net raw, two channels": nnunet_two,
    "BIDS derivative": bids,
    "MedMNIST": medmnist,
    "images and masks": pairs,
    "flat": flat,
    "class folders": classes,
    "parted": parted,
}


@pytest.fixture
def lay_out():
    """Return a maker of a data set by the name of its layout."""

    def make(layout, folder):
        MAKERS[layout](folder)
        return folder

    return make
