import numpy as np
import pytest
from PIL import Image

from medkd.config import load
from medkd.data.check import check
from medkd.data.show import HEAD, PATCHES, draw_augmentation
from medkd.study import Study

ROTATED = ("augment.rotate_degrees=30", "augment.probability=1")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("overrides", [ROTATED, ()], ids=["rotated", "as it is"])
def test_both_rows_are_one_patch_before_and_after_what_training_does(make_config, dims, overrides):
    path = make_config(dims=dims)
    study = Study(load(path, overrides=overrides), config_path=path)
    picture = np.asarray(Image.open(draw_augmentation(study, check(study)))).astype(int)
    height = (picture.shape[0] - 8) // 2
    above, below = (picture[row * height + HEAD : (row + 1) * height] for row in (0, 1))
    assert picture.shape[1] > PATCHES * 100
    assert (np.abs(above - below).max() > 0) == bool(overrides)
