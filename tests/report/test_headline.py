import io

from rich.console import Console

from medkd.report.headline import headline, latencies


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


def test_latencies_of_several_releases_stand_side_by_side(segmentation):
    measured = {str(role): result.latency for role, result in segmentation.roles.items()}
    text = shown(latencies(measured))
    assert all(f"{latency.cold_start_ms:.0f}" in text for latency in measured.values())
