from xml.etree import ElementTree

import pytest

from medkd.report import figures
from medkd.results import Interval, Reliability
from medkd.types import Role

DRAWN = ["reliability", "per_case", "differences", "stages", "trade"]


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_is_well_formed_described_and_repeatable(name, segmentation):
    drawing = getattr(figures, name)(segmentation)
    ElementTree.fromstring(drawing.svg)
    assert drawing.alt
    assert drawing.caption
    assert drawing == getattr(figures, name)(segmentation)
    assert b"<dc:date" not in drawing.svg


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_to_draw_is_no_drawing(name, segmentation):
    nothing = segmentation.model_copy(update={"roles": {}, "comparisons": ()})
    assert getattr(figures, name)(nothing) is None


@pytest.mark.parametrize("name", [n for n in DRAWN if n != "differences"])
def test_a_classification_is_drawn_too(name, classification):
    assert getattr(figures, name)(classification)


def test_role_colours_are_the_same_in_every_drawing(segmentation):
    for name in ("reliability", "per_case", "trade"):
        svg = getattr(figures, name)(segmentation).svg.decode().lower()
        for colour in figures.COLOURS.values():
            assert colour.lower() in svg


def test_the_margin_of_a_gate_is_drawn(segmentation):
    without = segmentation.model_copy(update={"config": {}})
    drawn, bare = figures.differences(segmentation).svg, figures.differences(without).svg
    assert drawn.count(b"stroke-dasharray") == bare.count(b"stroke-dasharray") + 2


def test_class_names_are_no_mathematics(segmentation):
    text = segmentation.model_dump_json().replace("posterior", "$\\\\frac{$海")
    svg = figures.per_case(type(segmentation).model_validate_json(text)).svg.decode()
    assert "$\\frac{$海" in svg


def test_undefined_values_are_left_out(segmentation):
    comparison = segmentation.comparisons[0].model_copy(
        update={"difference": Interval(value=float("nan"), cases=0, patients=0)}
    )
    assert (
        figures.differences(segmentation.model_copy(update={"comparisons": (comparison,)})) is None
    )


def test_an_empty_reliability_curve_has_no_panel(segmentation):
    empty = Reliability(confidence=(None,), accuracy=(None,), count=(0,))
    roles = {
        role: result.model_copy(update={"reliability": empty}) if role is Role.TEACHER else result
        for role, result in segmentation.roles.items()
    }
    drawing = figures.reliability(segmentation.model_copy(update={"roles": roles}))
    assert "teacher" not in drawing.alt
    assert "student" in drawing.alt
