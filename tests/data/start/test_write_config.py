import pytest

from medkd.config import load
from medkd.data.start.init import init


def test_values_of_the_config_carry_their_reasons(lay_out, tmp_path):
    text = init(lay_out("Decathlon", tmp_path / "data"), tmp_path / "s").config.read_text()
    assert "spacing_mm: [1.0, 1.0, 1.0] # the spacing of all images" in text
    assert "labels: {ball: 1, core_of_it: 2}\n" in text
    assert max(map(len, text.splitlines())) < 140


@pytest.mark.parametrize(
    ("layout", "losses"),
    [("Decathlon", ["pixel_kd", "soft_dice"]), ("class folders", ["pixel_kd"])],
)
def test_a_segmentation_is_taught_its_overlap_too(lay_out, tmp_path, layout, losses):
    made = load(init(lay_out(layout, tmp_path / "data"), tmp_path / "s").config)
    assert [loss.name for loss in made.distill.losses] == losses


def test_a_path_may_hold_what_begins_a_comment(lay_out, tmp_path):
    folder = tmp_path / ("a # " + "long " * 15 + "name")
    made = init(lay_out("flat", folder / "data"), folder / "s")
    assert load(made.config).study.root == str(folder / "s/runs")
