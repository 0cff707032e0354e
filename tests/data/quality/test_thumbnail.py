import numpy as np

from medkd.data.quality.thumbnail import EDGE, thumbnail


def test_a_volume_is_shown_where_most_of_its_label_is():
    image = np.zeros((1, 20, 30, 5))
    image[..., 3] = np.linspace(0, 1, 30)
    label = np.zeros((20, 30, 5), int)
    label[5:15, 10:20, 3] = 1
    picture = np.asarray(thumbnail(image, label))
    assert max(picture.shape[:2]) == EDGE
    assert picture[..., 0].max() == 255
    assert (picture[..., 0] != picture[..., 2]).any()  # the outline has a colour


def test_a_colour_picture_keeps_its_colours_and_nan_is_no_error():
    image = np.zeros((3, 16, 16))
    image[0] = 1
    image[0, 0, 0] = np.nan
    assert np.asarray(thumbnail(image)).shape == (EDGE, EDGE, 3)
