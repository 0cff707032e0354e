import pytest

from medkd.report.limits import limits, questions
from medkd.results import CaseScores, GateResult
from medkd.types import Role


def said(report, question):
    return dict(questions(report))[question]


def with_cases(report, **missed):
    """The report with one case ``x`` that the named roles missed a structure of."""
    roles = {
        role: result.model_copy(
            update={
                "cases": (
                    CaseScores(case="x", patient="p", figures={}, misses=missed.get(role, ())),
                )
            }
        )
        for role, result in report.roles.items()
    }
    return report.model_copy(update={"roles": roles})


def test_failed_and_open_criteria_are_limits(segmentation):
    gates = (
        GateResult(gate="a", judged=0.1, passed=False),
        GateResult(gate="b", judged=None, passed=None, reason="few"),
        GateResult(gate="c", judged=0.9, passed=True),
    )
    found = limits(segmentation.model_copy(update={"gates": gates}))
    assert "Not met: a." in found
    assert "Not judged: b (few)." in found
    assert not any(": c" in limit for limit in found)


def test_what_was_not_tried_is_a_limit(segmentation, classification):
    missing = {"Images worse than those of the test split were not tried."}
    assert not missing & set(limits(segmentation))
    assert missing <= set(limits(classification))
    assert "Baseline: latency was not measured." in limits(classification)


def test_whose_failure_it_is_is_told_by_case(segmentation):
    question = "Where the student fails, did the teacher fail too?"
    alone = with_cases(segmentation, student=("core",))
    both = with_cases(segmentation, student=("core",), teacher=("core",))
    assert said(alone, question).startswith("Not always")
    assert "in x." in said(alone, question)
    assert said(both, question).startswith("Yes")
    assert "nowhere" in said(with_cases(segmentation), question)


@pytest.mark.parametrize("turned", [False, True])
def test_the_difference_of_the_first_figure_is_told_with_its_interval(segmentation, turned):
    found = segmentation.comparisons
    of_parts = tuple(c.model_copy(update={"figure": f"{c.figure}/core"}) for c in found)
    order = (*of_parts, *found)[:: -1 if turned else 1]
    report = segmentation.model_copy(update={"comparisons": order})
    text = said(report, "Is the student as good as its teacher?")
    whole = next(c for c in found if (c.figure, c.minus) == ("dice", Role.TEACHER))
    assert f"{whole.difference.value:.3f}".lstrip("-") in text
    assert text.startswith("Dice, student minus teacher: ")
    assert "[" in text


def test_every_question_has_an_answer_even_where_nothing_was_measured(segmentation):
    bare = segmentation.model_copy(update={"roles": {}, "comparisons": (), "split": {}})
    assert all(answer for _, answer in questions(bare))
    assert Role.STUDENT not in bare.roles


def test_a_stress_that_costs_the_student_more_than_the_margin_is_a_limit(segmentation):
    found = [limit for limit in limits(segmentation) if "loses more than the margin" in limit]
    assert len(found) == len(segmentation.stress)
    assert found[2] == (
        "Missing slices: from 0.05 share of all on, the student loses more than the margin, and "
        "the guard flags 25 % of such images (item 24)."
    )


def test_a_student_that_falls_before_its_teacher_is_told(segmentation):
    question = "Does it bear worse images as well as its teacher?"
    assert said(segmentation, question).startswith("Yes")
    first, *others = segmentation.stress
    teachers = tuple(first.untouched[Role.TEACHER] for _ in first.strengths)
    suffered = {**first.suffered, Role.TEACHER: teachers}
    fallen = first.model_copy(update={"suffered": suffered})
    report = segmentation.model_copy(update={"stress": (fallen, *others)})
    assert said(report, question).endswith(f"at milder strengths of {first.stress}.")
    assert "does not tell" in said(segmentation.model_copy(update={"stress": ()}), question)


def test_nothing_follows_from_an_interval_of_too_few_patients(segmentation):
    question = "Is the student as good as its teacher?"
    assert "nothing follows" not in said(segmentation, question)
    evaluate = {"least_patients": segmentation.split["test"].patients + 1}
    few = segmentation.model_copy(update={"config": {"evaluate": evaluate}})
    assert "nothing follows from it" in said(few, question)
    assert "chance" not in said(few, question)
