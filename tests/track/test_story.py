import json

from medkd.results import CaseScores
from medkd.track.story import cases_table, describe, describe_role, final_figures
from medkd.types import Role


def test_final_figures_are_those_of_the_report(report):
    result = report.roles["student"]
    figures = final_figures(result, report.classes)
    assert figures["final/dice"] == result.headline["dice"].value
    assert figures["final/latency_p90_ms"] == result.latency.file_to_file_ms.p90
    assert json.dumps(figures)


def test_descriptions_begin_with_the_verdict_and_hold_every_figure(report):
    assert describe(report).startswith(f"## {report.verdict}")
    for role, result in report.roles.items():
        told = describe_role(report, role)
        assert f"**{report.verdict}**" in told
        for interval in {**result.headline, **result.per_class}.values():
            assert f"| {interval.value:.3f} |" in told


def test_reasons_are_text_and_no_markup(report):
    hostile = report.model_copy(update={"reasons": ("<script>alert(1)</script>\n# ready",)})
    assert "<script>" not in describe(hostile).replace("\\<", "")
    assert "\n# ready" not in describe(hostile)


def test_the_table_holds_every_case_the_worst_first():
    cases = [
        CaseScores(case="case-1", patient="patient-1", figures={"dice": 0.9, "dice/core": 0.8}),
        CaseScores(
            case="case-2", patient="patient-2", figures={"dice": 0.1}, misses=("ball", "core")
        ),
        CaseScores(case="case-3", patient="patient-2", figures={"dice": float("nan")}),
    ]
    table = json.loads(cases_table(cases))
    assert table["columns"] == ["case", "patient", "dice", "dice/core", "misses", "false alarms"]
    assert ["case-2", "patient-2", 0.1, None, "ball, core", ""] in table["data"]
    assert ["case-3", "patient-2", None, None, "", ""] in table["data"]
    order = [row[0] for row in table["data"] if row[2] is not None]
    assert order == ["case-2", "case-1"]


def test_the_table_of_a_study_knows_cases_by_their_keys_alone(report):
    told = cases_table(report.roles[Role.STUDENT].cases)
    for name, patient, *_ in json.loads(told)["data"]:
        assert name.startswith("case-")
        assert patient.startswith("patient-")
