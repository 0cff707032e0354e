import pytest

from medkd.report.drawing import COLOURS, MARKERS, svg
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
    assert len(set(COLOURS.values())) == len(Role)
    assert len(set(MARKERS.values())) == len(Role)


# Machado, Oliveira and Fernandes 2009: what is left of a colour, at full severity
BLINDNESS = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_roles_are_told_apart_without_seeing_red_or_green(kind):
    def seen(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return [sum(w * c for w, c in zip(row, linear, strict=True)) for row in BLINDNESS[kind]]

    colours = [seen(colour) for colour in COLOURS.values()]
    for i, one in enumerate(colours):
        for other in colours[i + 1 :]:
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.15
