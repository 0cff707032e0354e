import io

import pytest
from rich.console import Console

from medkd.errors import StudyError
from medkd.report import changes
from medkd.results import GateResult, Part
from tests.report.test_build import EVIL, Page


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


@pytest.fixture
def versions(segmentation):
    """Two versions: a criterion lost, one gained, one new; another loss weight and test split."""
    gates = (
        GateResult(gate="student dice >= 0.84", judged=0.81, passed=False),
        GateResult(gate="student nsd >= 0.9", judged=0.93, passed=True),
    )
    config = segmentation.config | {"distill": {"losses": [{"name": "pixel_kd", "weight": 2.0}]}}
    split = segmentation.split | {"test": Part(cases=52, patients=39, digest="other")}
    later = segmentation.model_copy(update={"gates": gates, "config": config, "split": split})
    return changes.Versions(before=segmentation, after=later)


def test_every_criterion_of_either_version_is_told(versions):
    rows = texts(changes.gates_table(versions))
    assert rows[0] == ["student dice >= 0.84", "pass", "fail", "worse: was met"]
    assert rows[1] == ["student nsd >= 0.9", "not asked for", "pass", "better: is met now"]
    assert rows[2][1:] == ["pass", "not asked for", "worse: was met"], "a dropped gate is a loss"
    assert len(rows) == 4


def test_a_criterion_that_is_no_longer_met_is_worse(versions):
    same = changes.Versions(before=versions.before, after=versions.before)
    assert changes.is_worse(versions)
    assert not changes.is_worse(same)


def test_the_same_version_twice_shows_no_change(segmentation):
    same = changes.Versions(before=segmentation, after=segmentation)
    assert not changes.config_table(same).rows
    assert {row[3] for row in texts(changes.figures_table(same))} == {"as before"}
    assert {row[3] for row in texts(changes.digests_table(same))} == {"same"}


def test_options_and_digests_that_differ_are_shown(versions):
    assert ["Distill · losses · 1 · weight", "1", "2"] in texts(changes.config_table(versions))
    assert ["part test", "c2d3e4f5a6b7c8d9", "other", "changed"] in texts(
        changes.digests_table(versions)
    )


def test_a_figure_is_better_in_its_own_direction(versions):
    student = versions.before.roles["student"]
    worse = {
        key: figure.model_copy(update={"value": figure.value + 0.05})
        for key, figure in student.headline.items()
    }
    roles = versions.before.roles | {"student": student.model_copy(update={"headline": worse})}
    after = versions.after.model_copy(update={"roles": roles})
    rows = texts(changes.figures_table(changes.Versions(before=versions.before, after=after)))
    told = {row[0]: row[3] for row in rows if row[0].startswith("Student")}
    assert {told["Student: Dice\xa0↑"], told["Student: ECE\xa0↓"]} == {"better", "worse"}


def test_figures_of_other_test_cases_are_not_called_comparable(versions, segmentation):
    assert "tested on different cases" in changes.draw(versions)
    same = changes.Versions(before=segmentation, after=segmentation)
    assert "tested on different cases" not in changes.draw(same)


def test_hostile_words_are_inert(versions):
    evil = versions.after.model_copy(
        update={
            "study": EVIL,
            "reasons": (EVIL,),
            "digests": {EVIL: EVIL},
            "config": {EVIL: EVIL},
            "gates": (GateResult(gate=EVIL, judged=0.1, passed=False, reason=EVIL),),
        }
    )
    poisoned = changes.Versions(before=versions.before, after=evil)
    page = changes.draw(poisoned)
    assert EVIL not in page
    assert {tag for tag, _ in Page(page).tags} <= {
        tag for tag, _ in Page(changes.draw(versions)).tags
    } | {"dl"}
    out = io.StringIO()
    for table in changes.terminal(poisoned):
        Console(file=out, width=400).print(table)
    assert "alert(1)" in out.getvalue(), "rich took the words for markup"


def test_two_studies_become_a_page_and_its_json(versions, tmp_path):
    for name, report in (("a", versions.before), ("b", versions.after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report.model_dump_json())
    found = changes.compare(tmp_path / "a", tmp_path / "b")
    page = changes.write_changes(found, tmp_path / "b")
    assert page == tmp_path / "b" / "changes.html"
    stored = changes.Versions.model_validate_json((tmp_path / "b" / "changes.json").read_text())
    assert changes.draw(stored) == page.read_text()


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(StudyError, match="not written yet"):
        changes.compare(tmp_path / "a", tmp_path / "b")


def test_an_answer_that_costs_less_is_better(versions):
    student = versions.before.roles["student"]
    times = student.latency.file_to_file_ms.model_copy(update={"p50": 1.0})
    latency = student.latency.model_copy(update={"file_to_file_ms": times})
    roles = versions.before.roles | {"student": student.model_copy(update={"latency": latency})}
    after = versions.after.model_copy(update={"roles": roles})
    rows = texts(changes.figures_table(changes.Versions(before=versions.before, after=after)))
    assert {row[0]: row[3] for row in rows}["Student: latency_p50_ms"] == "better"
