import re
from xml.etree import ElementTree

import numpy as np
import pytest

from medkd.report import waterfall
from medkd.report.drawing import COLOURS
from medkd.report.wording import ROLES, milliseconds
from medkd.types import Role

BAR = re.compile(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \nL \3 [\d.]+ \nL \1 ')


def rectangles(svg, colour):
    """Left, right and top of every bar of a colour, in the order in which they were drawn."""
    paths = [p for p in re.findall(r"<path (.*?)/>", svg, flags=re.DOTALL) if colour.lower() in p]
    found = (BAR.search(path) for path in paths)
    return [(float(m[1]), float(m[3]), float(m[2])) for m in found if m]


def of_one_role(report, **latency):
    student = report.roles[Role.STUDENT]
    changed = student.latency.model_copy(update=latency)
    roles = {Role.STUDENT: student.model_copy(update={"latency": changed})}
    return report.model_copy(update={"roles": roles})


def test_every_bar_begins_where_the_one_above_it_ended(segmentation):
    stages = {"read": 4.0, "network": 20.0, "write": 6.0}
    report = of_one_role(segmentation, stages_ms=stages, cold_stages_ms={})
    svg = waterfall.plots(report).svg.decode()
    others = rectangles(svg, waterfall.OTHERS)
    (network,) = rectangles(svg, COLOURS[Role.STUDENT])
    read, write = others
    assert read[1] == pytest.approx(network[0], abs=0.01)
    assert network[1] == pytest.approx(write[0], abs=0.01)
    assert read[2] < network[2] < write[2]
    widths = [bar[1] - bar[0] for bar in (read, network, write)]
    np.testing.assert_allclose(np.divide(widths, widths[0]), [1, 5, 1.5], rtol=0.01)


def test_every_bar_says_its_time_and_the_table_says_the_same(segmentation):
    drawn = waterfall.plots(segmentation)
    words = "".join(ElementTree.fromstring(drawn.svg).itertext())
    shown = " ".join(f"{c.text} {c.below}" for r in waterfall.table(segmentation).rows for c in r)
    for result in segmentation.roles.values():
        assert milliseconds(result.latency.file_to_file_ms.p50) in words
        assert milliseconds(result.latency.cold_start_ms) in words
        for laps in (result.latency.stages_ms, result.latency.cold_stages_ms):
            for value in laps.values():
                assert milliseconds(value) in words
                assert milliseconds(value) in shown
    assert all(f"{ROLES[role]}: first answer" in words for role in Role)


def test_a_report_that_knows_no_cold_stages_shows_what_it_knows(segmentation):
    report = of_one_role(segmentation, cold_stages_ms={})
    assert "first answer" not in waterfall.plots(report).svg.decode()
    assert not any("first" in cell.below for row in waterfall.table(report).rows for cell in row)


def test_a_role_that_was_not_timed_has_no_panel(classification):
    words = waterfall.plots(classification).svg.decode()
    timed = [role for role, result in classification.roles.items() if result.latency]
    assert {role for role in Role if f"{ROLES[role]}:" in words} == set(timed)
    nothing = classification.model_copy(update={"roles": {}})
    assert waterfall.plots(nothing) is None
    assert not waterfall.table(nothing).rows
