from PIL import Image

from medkd.evaluate.reliability import draw_reliability
from medkd.results import Reliability


def test_draws_a_picture_also_of_empty_bins(tmp_path):
    curve = Reliability(confidence=(None, 0.7, 0.95), accuracy=(None, 0.5, 0.9), count=(0, 10, 90))
    draw_reliability(tmp_path / "a" / "curve.png", curve, title="student")
    with Image.open(tmp_path / "a" / "curve.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=100_000)
    assert (0, 114, 178) in {colour for _, colour in colours}, "no curve was drawn"
