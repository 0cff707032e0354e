"""Wording: how figures, numbers and options read on the page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medkd.results import LESS_IS_BETTER, Interval
from medkd.types import Role

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
HARD_SPACE = "\N{NO-BREAK SPACE}"

# the order of every table and figure
ROLES = {
    Role.TEACHER: "Teacher",
    Role.STUDENT: "Student",
    Role.BASELINE: "Baseline",
}


@dataclass(frozen=True)
class Wording:
    """How one figure reads: its name, its unit and how many decimals are shown."""

    name: str
    unit: str = ""
    decimals: int = 3


# in the order of the tables
FIGURES = {
    "dice": Wording("Dice"),
    "nsd": Wording("NSD"),
    "hd95_mm": Wording("HD95", "mm", 2),
    "assd_mm": Wording("ASSD", "mm", 2),
    "iou": Wording("IoU"),
    "lesion_sensitivity": Wording("Lesions found"),
    "lesion_ppv": Wording("Claimed lesions that are right"),
    "auroc": Wording("AUROC"),
    "balanced_accuracy": Wording("Balanced accuracy"),
    "sensitivity": Wording("Sensitivity"),
    "specificity": Wording("Specificity"),
    "ppv": Wording("PPV"),
    "average_precision": Wording("Average precision"),
    "correct": Wording("Right answer"),
    "probability_of_truth": Wording("Probability of the true class"),
    "ece": Wording("ECE"),
    "boundary_ece": Wording("ECE near boundaries"),
    "adaptive_ece": Wording("Adaptive ECE"),
    "static_ece": Wording("Static ECE"),
    "mce": Wording("MCE"),
    "brier": Wording("Brier score"),
    "nll": Wording("NLL"),
}


# words of a key that are not written as they stand
SPELLING = {
    "nsd": "NSD",
    "ema": "EMA",
    "mm": "(mm)",
    "ms": "(ms)",
    "gib": "(GiB)",
    "mib": "(MiB)",
}


def wording(key: str) -> Wording:
    """Return the wording of a figure; an unknown key is made readable.

    Example:
        >>> wording("hd95_mm/anterior").name, wording("volume_error").name
        ('HD95', 'Volume error')
    """
    figure = key.partition("/")[0]
    return FIGURES.get(figure) or Wording(sentence(figure))


def title(key: str) -> str:
    r"""Name a figure with its unit and the direction in which it gets better.

    Example:
        >>> title("hd95_mm"), title("dice/anterior")
        ('HD95 (mm)\xa0↓', 'Dice\xa0↑')
    """
    words = wording(key)
    unit = f" ({words.unit})" if words.unit else ""
    return f"{words.name}{unit}{HARD_SPACE}{'↓' if less_is_better(key) else '↑'}"


def less_is_better(key: str) -> bool:
    """Whether a smaller value of this figure is the better one."""
    return key.partition("/")[0] in LESS_IS_BETTER


def in_order(keys: Sequence[str]) -> list[str]:
    """Sort figures as the tables show them: the known first, then the rest as they come."""
    rank = {key: place for place, key in enumerate(FIGURES)}
    return sorted(dict.fromkeys(keys), key=lambda key: rank.get(key.partition("/")[0], len(rank)))


def number(value: float | None, *, key: str = "", signed: bool = False) -> str:
    """Write a figure with the decimals of its kind and a true minus sign.

    Example:
        >>> number(0.8844, key="dice"), number(0.0121, key="dice", signed=True)
        ('0.884', '+0.012')
    """
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "not defined"
    decimals = wording(key).decimals
    rounded = round(value, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}".replace("-", MINUS)


def bounds(interval: Interval, *, key: str, signed: bool = False) -> str:
    """Write an interval's ends as ``[0.879, 0.889]``; nothing where they could not be estimated."""
    if interval.low is None or interval.high is None:
        return ""
    ends = (number(end, key=key, signed=signed) for end in (interval.low, interval.high))
    return f"[{', '.join(ends)}]"


def plain(value: int | float | None) -> str:
    """Write a number of unknown kind with four significant digits.

    Example:
        >>> plain(0.01234567), plain(182.0), plain(19_071_234)
        ('0.01235', '182', '19,071,234')
    """
    if value is None:
        return ""
    written = f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.4g}"
    return written.replace("-", MINUS)


def amount(value: int | float) -> str:
    """Write a large count with three significant digits.

    Example:
        >>> amount(19_071_234), amount(812), amount(1_310_000_000)
        ('19.1 M', '812', '1.31 G')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{three_digits(value / size)} {letter}"
    return f"{value:g}"


def milliseconds(value: float) -> str:
    """Write a duration, in seconds from ten seconds on.

    Example:
        >>> milliseconds(8.21), milliseconds(1240.4), milliseconds(24_310.0)
        ('8.21 ms', '1,240 ms', '24.3 s')
    """
    return f"{three_digits(value / 1000)} s" if value >= 10_000 else f"{three_digits(value)} ms"


def three_digits(value: float) -> str:
    """Write a number with three significant digits, or all digits of its whole part."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value >= 0.01 else 2
    return f"{value:,.{min(decimals, 2)}f}"


def sentence(key: str) -> str:
    """Turn a key into words.

    Example:
        >>> sentence("learning_rate"), sentence("nsd_tolerance_mm")
        ('Learning rate', 'NSD tolerance (mm)')
    """
    words = _words(key)
    return words[:1].upper() + words[1:]


def _words(key: str) -> str:
    return " ".join(SPELLING.get(word, word) for word in key.replace("_", " ").split())


def facts(tree: Mapping[str, Any], *, above: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested options into pairs of readable key and value.

    Example:
        >>> list(facts({"model": {"name": "unet"}, "flips": [0, 1], "ema": None}))
        [('Model · name', 'unet'), ('Flips', [0, 1]), ('EMA', None)]
    """
    for key, value in tree.items():
        name = f"{above} · {_words(str(key))}" if above else sentence(str(key))
        if isinstance(value, Mapping) and value:
            yield from facts(value, above=name)
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            yield from facts({str(i): v for i, v in enumerate(value, 1)}, above=name)
        else:
            yield name, value


def text(value: object) -> str:
    """Write one option's value.

    Example:
        >>> text(True), text([48, 48, 28]), text(0.001)
        ('yes', '48, 48, 28', '0.001')
    """
    if value is None or value in ([], (), {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(text(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
