"""Drawing: SVG in one style, the same bytes from the same results."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medkd.extras import require
from medkd.report.wording import ROLES
from medkd.results import RoleResult
from medkd.types import Role

# Okabe and Ito 2008: told apart by colour-blind readers; every role has a marker of its own as well
COLOURS = {Role.TEACHER: "#0072B2", Role.STUDENT: "#D55E00", Role.BASELINE: "#009E73"}
MARKERS = {Role.TEACHER: "s", Role.STUDENT: "o", Role.BASELINE: "^"}
WIDTH = 9.6  # inches

STYLE = {
    "svg.hashsalt": "medkd",
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7a828a",
    "axes.labelcolor": "#3b434b",
    "axes.axisbelow": True,
    "xtick.color": "#3b434b",
    "ytick.color": "#3b434b",
    "grid.color": "#e3e6e9",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """An SVG, what it shows to those who cannot see it, and its caption."""

    svg: bytes
    alt: str
    caption: str


def svg(draw: Callable[[Any], None], *, height: float, width: float = WIDTH) -> bytes:
    """Let ``draw`` fill an empty figure and return it as SVG.

    Args:
        draw: draws on a ``matplotlib.figure.Figure``.
        height: in inches.
        width: in inches.
    """
    style = require("matplotlib.style", extra="train")
    figures = require("matplotlib.figure", extra="train")
    content = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # the reader's fonts write the text, so it is no matter that ours lack a letter
        warnings.filterwarnings("ignore", message="Glyph")
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    return content.getvalue()


def legend(figure: Any, results: Sequence[RoleResult]) -> None:  # noqa: ANN401
    """Say above the figure which marker and colour is whose."""
    lines = require("matplotlib.lines", extra="train")
    handles = [
        lines.Line2D([], [], linestyle="none", marker=MARKERS[r.role], color=COLOURS[r.role])
        for r in results
    ]
    labels = [ROLES[r.role] for r in results]
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
