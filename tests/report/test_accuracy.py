from medkd.report import accuracy
from medkd.results import GateResult, Interval
from medkd.types import Role


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_gates_are_judged_in_words(segmentation):
    gates = tuple(
        GateResult(gate=f"gate {passed}", judged=None, passed=passed, reason="why")
        for passed in (True, False, None)
    )
    rows = texts(accuracy.gates(segmentation.model_copy(update={"gates": gates})))
    assert [row[2] for row in rows] == ["✓ pass", "✗ fail", "? not judged"]
    assert {row[1] for row in rows} == {"not measured"}
    assert {row[3] for row in rows} == {"why"}


def test_differences_read_in_the_direction_of_their_figure(segmentation):
    def read(figure, low, high):
        interval = Interval(value=(low + high) / 2, low=low, high=high, cases=52, patients=39)
        one = segmentation.comparisons[0].model_copy(
            update={"figure": figure, "difference": interval}
        )
        report = segmentation.model_copy(update={"comparisons": (one,)})
        return accuracy.comparisons(report).rows[0][1].below.rpartition("] ")[2]

    assert read("dice", 0.01, 0.02) == read("hd95_mm", -0.2, -0.1) == "better"
    assert read("dice", -0.02, -0.01) == read("hd95_mm/tail", 0.1, 0.2) == "worse"
    assert read("dice", -0.01, 0.01) == "no difference"


def test_whole_cases_come_before_single_classes(segmentation):
    names = [row[0] for row in texts(accuracy.comparisons(segmentation))]
    assert [" of " in name for name in names] == [False] * 3 + [True] * 6


def test_classes_keep_the_order_of_the_study(segmentation):
    dice = accuracy.per_class(segmentation)[0]
    assert [row[0] for row in texts(dice)] == ["anterior", "posterior"]


def test_a_figure_that_holds_fewer_cases_says_so(segmentation):
    student = segmentation.roles[Role.STUDENT]
    fewer = student.headline["dice"].model_copy(update={"cases": 50, "patients": 38})
    changed = student.model_copy(update={"headline": {**student.headline, "dice": fewer}})
    report = segmentation.model_copy(update={"roles": {Role.STUDENT: changed}})
    assert accuracy.headline(report).rows[0][1].below.endswith("over 50 cases of 38 patients")


def test_failures_are_named_by_task(segmentation, classification):
    heads = [cell.text[:-2] for cell in accuracy.failures(segmentation).head]
    assert heads[1:] == ["Missed structures", "Invented structures", "Cases with Dice below 0.5"]
    heads = [cell.text[:-2] for cell in accuracy.failures(classification).head]
    assert heads[1:] == ["Cases given a wrong class"]


def test_cases_are_counted_by_reference_and_answer(classification, segmentation, findings):
    teacher, *others = accuracy.confusion(classification)
    assert len(others) == 2
    assert [cell.text for cell in teacher.head] == ["Reference", "normal", "pneumonia"]
    rows = [[cell.text for cell in row] for row in teacher.rows]
    assert rows == [["normal", "11", "2"], ["pneumonia", "3", "34"]]
    assert accuracy.confusion(segmentation) == accuracy.confusion(findings) == []


def test_no_headline_figure_is_dropped(classification):
    shown = [
        cell.text.split("\N{NO-BREAK SPACE}")[0]
        for table in (
            accuracy.headline(classification),
            accuracy.further(classification),
            accuracy.calibration(classification),
        )
        for cell in table.head
    ]
    names = ("AUROC", "Balanced accuracy", "Sensitivity", "Average precision", "ECE", "Brier score")
    assert {*names, "NLL"} <= set(shown)


def test_a_promise_stands_beside_what_was_kept_and_its_price(segmentation, classification):
    table = accuracy.promises(segmentation)
    assert [cell.text for cell in table.rows[2]] == ["Student", "0.9", "0.905", "1.210", "0.413"]
    assert [row[1].below for row in table.rows[:2]] == ["anterior", "posterior"]
    assert accuracy.promises(classification).head[3].text == "Classes in a set"
    assert not accuracy.promises(segmentation.model_copy(update={"promises": {}})).rows


def test_findings_are_missed_and_invented_and_ruled_out(findings):
    heads = [cell.text[:-2] for cell in accuracy.failures(findings).head]
    assert heads[1:] == ["Missed findings", "Invented findings", "Cases with a wrong finding"]
    table = accuracy.promises(findings)
    assert table.head[3].text == "Share of the others in whom it is not ruled out"
    assert [row[1].below for row in table.rows[:2]] == list(findings.classes)
    shown = [table.head[0].text for table in accuracy.per_class(findings)]
    assert shown == ["Class"] * 5
