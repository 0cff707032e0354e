import math

import pytest

from medkd.report.wording import (
    FIGURES,
    MINUS,
    amount,
    bounds,
    facts,
    in_order,
    milliseconds,
    number,
    text,
    title,
)
from medkd.results import LESS_IS_BETTER, Interval


@pytest.mark.parametrize("key", FIGURES)
def test_every_figure_says_in_which_direction_it_gets_better(key):
    assert title(key).endswith("↓" if key in LESS_IS_BETTER else "↑")


@pytest.mark.parametrize(
    ("value", "signed", "shown"),
    [
        (0.8846, False, "0.885"),
        (-0.0004, True, "0.000"),
        (-0.0121, True, f"{MINUS}0.012"),
        (math.nan, False, "not defined"),
        (math.inf, False, "not defined"),
        (None, False, "not measured"),
    ],
)
def test_a_number_is_shown_with_the_decimals_of_its_kind(value, signed, shown):
    assert number(value, key="dice", signed=signed) == shown


def test_an_interval_without_ends_shows_none():
    assert bounds(Interval(value=0.5, cases=1, patients=1), key="dice") == ""


def test_figures_keep_one_order_and_unknown_ones_come_last():
    assert in_order(["volume", "ece", "nsd", "dice", "nsd"]) == ["dice", "nsd", "ece", "volume"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.00 ms"), (9999.0, "9,999 ms"), (10_000.0, "10.0 s")]
)
def test_long_times_are_told_in_seconds(value, shown):
    assert milliseconds(value) == shown


def test_counts_are_told_in_three_digits():
    assert [amount(n) for n in (0, 999, 521_388, 19_071_234)] == ["0", "999", "521 k", "19.1 M"]


def test_lists_of_mappings_are_numbered():
    tree = {"losses": [{"name": "kd"}, {"name": "at"}]}
    assert [key for key, _ in facts(tree)] == ["Losses · 1 · name", "Losses · 2 · name"]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "none"), ([], "none"), (0, "0"), (1e-4, "0.0001")]
)
def test_option_values_read_as_words(value, shown):
    assert text(value) == shown
