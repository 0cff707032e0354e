import pytest

from medkd.report.drawing import COLOURS, MARKERS, STAGE_COLOURS, svg
from medkd.types import Role


def line(figure):
    axis = figure.subplots()
    axis.plot([1, 2], [3, 4])
    axis.set_title("海馬 $\\frac{ <b>")


def test_text_stays_text_whatever_it_holds():
    drawn = svg(line, height=2.0).decode()
    assert "海馬 $\\frac{ &lt;b&gt;" in drawn


def test_the_settings_of_the_user_change_nothing():
    mpl = pytest.importorskip("matplotlib")
    plain = svg(line, height=2.0)
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "text.usetex": True}):
        assert svg(line, height=2.0) == plain


def test_every_role_has_a_colour_and_a_marker_of_its_own():
    assert set(COLOURS) == set(MARKERS) == set(Role)
    assert len({*COLOURS.values(), *STAGE_COLOURS}) == len(COLOURS) + len(STAGE_COLOURS)
    assert len(set(MARKERS.values())) == len(Role)
