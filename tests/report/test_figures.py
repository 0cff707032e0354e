import re
from xml.etree import ElementTree

import numpy as np
import pytest

from medkd.report import figures
from medkd.results import Interval, ReleasePoint, Reliability
from medkd.types import Role

DRAWN = ["reliability", "per_case", "differences", "trade"]


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


def variant(segmentation, name, *, dice, p50_ms):
    """A further release of the student."""
    latency = segmentation.roles[Role.STUDENT].latency
    times = latency.file_to_file_ms.model_copy(update={"p50": p50_ms})
    return ReleasePoint(
        name=name,
        role=Role.STUDENT,
        figure="dice",
        value=Interval(value=dice, low=dice - 0.01, high=dice + 0.01, cases=52, patients=39),
        size_mib=0.5,
        latency=latency.model_copy(update={"file_to_file_ms": times}),
    )


def test_any_number_of_variants_are_drawn_and_the_front_holds_those_that_none_beats(segmentation):
    best = segmentation.roles[Role.TEACHER].headline["dice"].value
    releases = (
        variant(segmentation, "student-int8", dice=best - 0.006, p50_ms=9.0),
        variant(segmentation, "student-openvino", dice=best - 0.002, p50_ms=21.0),
        variant(segmentation, "student-slow", dice=0.5, p50_ms=90.0),
    )
    drawing = figures.trade(segmentation.model_copy(update={"releases": releases}))
    text = drawing.svg.decode()
    assert all(release.name in text for release in releases)
    front = drawing.alt.partition("Pareto front: ")[2]
    assert "student-int8" in front
    assert "teacher" in front, "nothing is more accurate"
    assert "student-slow" not in front


def test_names_of_releases_that_lie_close_do_not_cover_each_other(segmentation):
    names = [f"student-{place}" for place in range(4)]
    releases = tuple(variant(segmentation, name, dice=0.8, p50_ms=20.0) for name in names)
    drawing = figures.trade(segmentation.model_copy(update={"releases": releases}))
    text = drawing.svg.decode()
    heights = [float(re.search(rf' y="([\d.]+)"[^>]*>{name}<', text)[1]) for name in names]
    assert min(np.diff(sorted(heights))) > 10
