from medkd.options import COSTS
from medkd.report import costs
from medkd.results import (
    Attempt,
    Interval,
    Parity,
    SizingPoint,
    VariantResult,
    accuracy_class,
)
from medkd.types import Role, Variant

ATTEMPTS = (
    Attempt(
        way="quantised",
        difference=Interval(value=-0.0042, low=-0.006, high=0.001, cases=9, patients=9),
        refused="it loses too much",
    ),
    Attempt(way="trained on as if in int8", refused="not tried: the soft targets are gone"),
)


def test_a_role_without_latency_is_not_measured(classification):
    rows = costs.latency(classification).rows
    assert {row[3].text for row in rows} == {"not measured"}
    assert not {row[1].text for row in rows} & {"not measured", ""}


def test_all_that_was_measured_is_listed(segmentation):
    names = " ".join(row[0].text for row in costs.latency(segmentation).rows)
    for words in ("p50", "p90", "p99", "Cold start", "memory", "Threads", "Load"):
        assert words in names


def test_what_is_faster_says_how_much_of_the_teachers_accuracy_it_keeps(segmentation):
    (row,) = (row for row in costs.latency(segmentation).rows if "MLPerf's class" in row[0].text)
    teacher, student = (segmentation.roles[role] for role in (Role.TEACHER, Role.STUDENT))
    values = [result.headline["dice"].value for result in (teacher, student)]
    assert [cell.text for cell in row[1:3]] == [accuracy_class(v, values[0]) for v in values]
    assert row[1].text == "99.9 %"
    alone = segmentation.model_copy(update={"roles": {Role.STUDENT: student}})
    assert "no teacher" in {row[1].text for row in costs.latency(alone).rows}


def test_the_headline_holds_size_and_speed(segmentation):
    cells = costs.cost_cells(segmentation.roles[Role.TEACHER])
    assert [cell.text for cell in cells] == ["5.75 M", "249 ms", "232 ms", "21.9 MiB"]
    assert len(cells) == len(costs.cost_heads())


def test_a_model_is_told_by_name_and_options(segmentation):
    network = costs.models(segmentation).rows[0][1]
    assert network.text == "dynunet"
    assert network.below == "Filters: 16, 32, 64, 128"


def test_the_widths_that_were_tried_are_shown_and_the_chosen_one_stands_out(segmentation):
    points = tuple(
        SizingPoint(
            model={"name": "plain_unet", "channels": [width]},
            parameters=width,
            latency_p50_ms=width,
            latency_p90_ms=width + 1,
            network_ms=width - 1,
            chosen=width == 16,
        )
        for width in (8, 16, 24)
    )
    shown = costs.sizing(segmentation.model_copy(update={"sizing": points}))
    assert [row[4].text for row in shown.rows] == ["", "chosen", ""]
    assert not costs.sizing(segmentation).rows


def test_a_gate_may_name_every_cost_that_is_measured_and_no_other(segmentation):
    result = segmentation.roles[Role.TEACHER]
    latency = result.latency.model_copy(update={"p90_bound_ms": 1.0})  # too few answers for one
    result = result.model_copy(update={"latency": latency})
    assert result.costs.keys() | result.failures.keys() == COSTS


def test_a_variant_is_shown_with_what_it_lost_and_why_it_was_refused(segmentation):
    parity = Parity(
        largest_logit_difference=2.2,
        largest_logit=25,
        agreement=0.9996,
        figure="dice",
        trained=0.88,
        difference=Interval(value=-0.0042, low=-0.006, high=0.001, cases=9, patients=9),
        trained_temperature=1.4,
        trained_ece=0.0031,
        temperature=1.5,
        ece=0.0033,
    )
    result = VariantResult(
        role=Role.STUDENT,
        variant=Variant.INT8,
        may_lose=0.003,
        parity={"openvino": parity},
        refused={"openvino": "it loses too much"},
    )
    result = result.model_copy(update={"attempts": ATTEMPTS})
    report = segmentation.model_copy(update={"variants": (result,)})
    (row,) = costs.variants(report).rows
    assert (row[0].text, row[0].below) == ("student-int8", "openvino")
    assert (row[1].text, row[1].below) == ("−0.0042", "Dice, −0.0060 to +0.0010")  # noqa: RUF001
    assert (row[-1].text, row[-1].below) == ("not released", "it loses too much")
    first, second = costs.attempts(report).rows
    assert [cell.text for cell in first] == ["student-int8", "−0.0042", "refused"]  # noqa: RUF001
    assert (first[1].below, first[2].below) == ("−0.0060 to +0.0010", "it loses too much")  # noqa: RUF001
    assert (second[0].below, second[1].text) == ("trained on as if in int8", "not measured")
    alone = result.model_copy(update={"attempts": ATTEMPTS[:1]})
    assert not costs.attempts(report.model_copy(update={"variants": (alone,)})).rows
