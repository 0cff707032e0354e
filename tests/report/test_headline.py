import io

from rich.console import Console

from medkd.report.headline import headline


def shown(table):
    text = io.StringIO()
    Console(file=text, width=160).print(table)
    return text.getvalue()


def test_three_rows_with_teacher_first(segmentation):
    text = shown(headline(segmentation))
    assert text.index("teacher") < text.index("student") < text.index("baseline")


def test_shows_what_the_report_holds(segmentation):
    student = segmentation.roles["student"]
    text = shown(headline(segmentation))
    dice = student.headline["dice"]
    assert f"{dice.value:.3f}" in text
    assert f"({dice.low:.3f}, {dice.high:.3f})" in text
    assert f"{student.parameters:,}" in text
    assert f"{student.latency.file_to_file_ms.p90:.1f}" in text


def test_classification_has_its_own_columns(classification):
    text = shown(headline(classification))
    assert "AUROC" in text
    assert "Dice" not in text
