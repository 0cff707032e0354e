"""Reliability: the diagram of accuracy against confidence, as a picture for the tracker."""

from pathlib import Path

from medkd.extras import require
from medkd.results import Reliability


def draw_reliability(path: Path, curve: Reliability, *, title: str) -> None:
    """Write a PNG: accuracy against confidence above, how often each confidence occurs below."""
    require("matplotlib", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.8), dpi=110)
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    above.plot(curve.confidence, curve.accuracy, color="#0072B2", marker="o")
    above.set(ylabel="accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
    below.bar([c or 0.0 for c in curve.confidence], curve.count, width=0.04, color="#0072B2")
    below.set(xlabel="confidence", ylabel="count", yscale="log")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
