"""Show: a picture of what the training pipeline does to a case."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medkd.config import Config
from medkd.data.check import Cohort, labelled
from medkd.data.labels import flattened
from medkd.data.loaders import PatchDataset
from medkd.data.quality.survey import FOLDER
from medkd.data.quality.thumbnail import slice_of, thumbnail
from medkd.data.samples import Sample, load_samples
from medkd.options import AugmentOptions
from medkd.study import Study

PATCHES, EDGE, MARGIN, HEAD = 8, 176, 8, 22  # how many; pixels
Patch = tuple[np.ndarray, np.ndarray | None]


def draw_augmentation(study: Study, cohort: Cohort) -> Path:
    """Write ``check/augmentation.png``: patches of a training case as cut, and as trained on.

    Each column is one patch; both rows share their slice and their scale of greys.
    """
    case, config = labelled(cohort.of(cohort.split.train))[0], study.config
    plain = config.model_copy(update={"augment": AugmentOptions(probability=0)})
    before, after = (_patches(load_samples([case], each), each) for each in (plain, config))
    columns = [_pictures(one, other) for one, other in zip(before, after, strict=True)]
    width, height = columns[0][0].size
    canvas = Image.new("RGB", (PATCHES * (width + MARGIN) + MARGIN, 2 * (height + HEAD) + MARGIN))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(("as cut", "as the networks see it")):
        draw.text((MARGIN, row * (height + HEAD) + 5), name, fill="white", font_size=12)
        for column, pictures in enumerate(columns):
            place = (MARGIN + column * (width + MARGIN), HEAD + row * (height + HEAD))
            canvas.paste(pictures[row], place)
    path = study.folder / FOLDER / "augmentation.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)
    return path


def _patches(samples: Sequence[Sample], config: Config) -> list[Patch]:
    """Return the first patches of a training run: images, and labels where they are maps."""
    _, options = config.trained_in("student")
    dataset = PatchDataset(samples, config, options=options)
    drawn = [dataset[number] for number in range(PATCHES)]
    return [(each["image"].numpy(), _drawn(each["label"].numpy(), config)) for each in drawn]


def _drawn(label: np.ndarray, config: Config) -> np.ndarray | None:
    return flattened(label, config) if label.ndim else None


def _pictures(before: Patch, after: Patch) -> list[Image.Image]:
    low, high = np.percentile(before[0], [0.5, 99.5])
    at = slice_of(*before) if before[0].ndim == 4 else None
    return [
        thumbnail(*_cut(image, label, at), edge=EDGE, limits=(float(low), float(high)))
        for image, label in (before, after)
    ]


def _cut(image: np.ndarray, label: np.ndarray | None, at: int | None) -> Patch:
    if at is None:
        return image, label
    return image[..., at], None if label is None else label[..., at]
