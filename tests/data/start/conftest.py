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


def dicom_outlines(folder):
    from tests.data.start.test_dicom_tree import write_images, write_outlines

    for n in range(12):
        write_images(folder / f"s{n}/ct", f"1.2.{n}", seed=n, patient=f"P{n}")
        structures = {"organ": 4 + n % 3}
        write_outlines(folder / f"s{n}/rs.dcm", f"1.2.{n}", structures, patient=f"P{n}")


def dicom_segments(folder):
    from tests.data.start.test_dicom_tree import write_images, write_segments

    for n in range(12):
        write_images(folder / f"s{n}/ct", f"1.2.{n}", seed=n, patient=f"P{n}")
        write_segments(folder / f"s{n}/seg.dcm", folder / f"s{n}/ct", "organ", radius=4 + n % 3)


def told(folder, **changes):
    """Let ``dataset.json`` say something else, and no table name the patients."""
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "people.csv").unlink(missing_ok=True)


def without_validation(folder):
    for first, part in enumerate(("train", "test")):
        for n in range(12):
            picture(folder / part / ("a", "b")[n % 2] / f"e{n}.png", seed=12 * first + n)


def unmasked_test(folder):
    for first, part in enumerate(("train", "val", "test")):
        for n in range(6):
            mask = folder / part / "masks" / f"e{n}.png"
            to = None if part == "test" else mask
            picture(folder / part / "images" / f"e{n}.png", seed=6 * first + n, label_to=to)


def masks_among_classes(folder):
    for n in range(24):
        name = ("benign", "malignant")[n % 2]
        mask = folder / name / f"{name} ({n})_mask.png"
        picture(folder / name / f"{name} ({n}).png", seed=n, label_to=mask, value=255)
        if n < 2:
            mask.with_name(f"{mask.stem}_1.png").write_bytes(mask.read_bytes())


def unused_name(folder):
    decathlon(folder)
    told(folder, labels={"0": "background", "1": "Ball", "2": "Core", "3": "Rare"})


def value_without_a_name(folder):
    decathlon(folder)
    told(folder, labels={"0": "background", "1": "Ball"})


def unknown_licence(folder):
    decathlon(folder)
    told(folder, licence="Unknown")


def classes_alike(folder):
    for n in range(24):
        picture(folder / ("Class A", "class_a")[n % 2] / f"e{n}.png", seed=n)


def file_pairs(folder):
    import nibabel

    for n in range(12):
        volume(folder, "x.nii.gz", seed=n, label_to=folder / "masks" / f"c{n}.nii.gz")
        image = nibabel.load(folder / "x.nii.gz").get_fdata().astype(np.int16)
        (folder / "images").mkdir(exist_ok=True)
        pair = nibabel.Nifti1Pair(image, np.eye(4))
        nibabel.save(pair, str(folder / "images" / f"c{n}.hdr"))
        (folder / "x.nii.gz").unlink()


def colour(folder):
    from medkd.data import images

    for n in range(12):
        name = f"r_{n:03d}"
        picture(folder / "x.png", seed=n, label_to=folder / "labelsTr" / f"{name}.png")
        grey = images.read(folder / "x.png").array[0]
        images.write(
            folder / "imagesTr" / f"{name}_0000.png", np.stack([grey, grey, 255 - grey], -1)
        )
        (folder / "x.png").unlink()
    channels = {"0": "R", "1": "G", "2": "B"}
    labels = {"background": 0, "ball": 1}
    text = json.dumps({"channel_names": channels, "labels": labels, "file_ending": ".png"})
    (folder / "dataset.json").write_text(text)


def bids_two(folder):
    bids(folder)
    for path in sorted(folder.glob("sub-*/ses-*/anat/*_T1w.nii.gz")):
        path.with_name(path.name.replace("T1w", "FLAIR")).write_bytes(path.read_bytes())
    (folder / "derivatives/manual/dseg.tsv").write_text("index\tname\n1\tBall\n2\tCore\n3\tX\n")


def decathlon_lists(folder):
    decathlon(folder)
    content = json.loads((folder / "dataset.json").read_text())
    for entry in content["training"]:
        first = entry["image"].replace(".nii.gz", "_T1.nii.gz")
        second = entry["image"].replace(".nii.gz", "_T2.nii.gz")
        (folder / entry["image"]).rename(folder / first)
        (folder / second).write_bytes((folder / first).read_bytes())
        entry["image"] = [first, second]
    told(folder, training=content["training"], modality={"0": "T1", "1": "T2"})


AWKWARD = {
    "class folders without validation": without_validation,
    "a test part without masks": unmasked_test,
    "masks among the images of classes": masks_among_classes,
    "a name that no label map holds": unused_name,
    "a value without a name": value_without_a_name,
    "an unknown licence": unknown_licence,
    "classes of one name but for case": classes_alike,
    "pairs of header and voxels": file_pairs,
    "nnU-Net of colour pictures": colour,
    "BIDS of two modalities": bids_two,
    "Decathlon of a file a modality": decathlon_lists,
}
MAKERS = AWKWARD | {
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
    "DICOM with RTSTRUCT": dicom_outlines,
    "DICOM with SEG": dicom_segments,
}


@pytest.fixture
def lay_out():
    """Return a maker of a data set by the name of its layout."""

    def make(layout, folder):
        MAKERS[layout](folder)
        return folder

    return make
