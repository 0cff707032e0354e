"""Parity: does a released network answer as the one that was trained, on real cases?

Both look at the validation cases through the same windows: they differ by the network alone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from medkd.config import Config
from medkd.data.activation import decided, probabilities, tempered
from medkd.data.annotated import covered, covered_questions, in_label_terms, possible_of
from medkd.data.labels import of_judged_voxels, structure_masks, without_channel
from medkd.data.samples import Sample
from medkd.device.window import Network, predict_windows
from medkd.metrics.calibration import CalibrationBins, count_calibration
from medkd.metrics.classification import by_class, threshold_at_specificity
from medkd.metrics.overlap import dice
from medkd.metrics.statistics import bootstrap_difference
from medkd.metrics.temperature import fit_drawn
from medkd.progress import progress
from medkd.results import Parity
from medkd.seeding import derive_seed
from medkd.types import UNLABELLED, Case, Task, Temperature

VOXELS = 200_000  # drawn over all cases, for temperature and calibration error
WINDOWS_AT_ONCE = 2  # torch computes a single small volume much slower


def compare(
    trained: nn.Module,
    released: Mapping[str, Network],
    samples: Sequence[Sample],
    config: Config,
    *,
    temperature: Temperature,
) -> dict[str, Parity]:
    """Compare what is released with the network as trained.

    Args:
        trained: in evaluation mode, on the CPU.
        released: its forms, by name of the runtime.
        samples: the validation cases.
        config: of the study.
        temperature: that calibrates the network as trained.
    """
    reference, tallies = _Tally(config), {name: _Tally(config) for name in released}
    for sample in progress(samples, "parity", total=len(samples)):
        expected = logits_of(in_torch(trained), sample, config)
        reference.add(expected, expected, sample, of=len(samples))
        for name, network in released.items():
            tallies[name].add(logits_of(network, sample, config), expected, sample, of=len(samples))
    return {
        name: tally.parity(reference, samples, temperature=temperature)
        for name, tally in tallies.items()
    }


def lost(parity: Parity) -> float:
    """Return what is lost by the less favourable end of the interval; what it is without one."""
    difference = parity.difference
    return -(difference.value if difference.low is None else difference.low)


def why_refused(parity: Parity, *, may_lose: float) -> str | None:
    """Return why a form that answers so is not released; None if it may be."""
    if not np.isfinite(parity.largest_logit_difference):
        return "its logits are not finite"
    if lost(parity) <= may_lose:
        return None
    mean = -parity.difference.value
    return (
        f"it loses {mean:.4f} {parity.figure} on the validation split, by its interval up to "
        f"{lost(parity):.4f}; export.may_lose allows {may_lose:g}"
    )


def in_torch(network: nn.Module) -> Network:
    """Return a torch network as a function of arrays."""

    @torch.no_grad()
    def answer(windows: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(windows)).float().numpy()

    return answer


def logits_of(network: Network, sample: Sample, config: Config) -> np.ndarray:
    """Return logits ``[classes, *space]`` on the network's grid, or ``[classes, 1]``."""
    if config.task is Task.CLASSIFICATION:
        return network(sample.image[None])[0][:, None].copy()
    options = config.preprocess
    return predict_windows(
        network,
        sample.image,
        window=options.window,
        overlap=options.overlap,
        windows_at_once=WINDOWS_AT_ONCE,
    )


class _Tally:
    """What one network says of all cases."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._figure: Callable[..., float] = (
            _accuracy if config.task is Task.CLASSIFICATION else _mean_dice
        )
        self._rng = np.random.default_rng(derive_seed(config.study.seed, "parity"))
        self.difference = self.size = 0.0
        self.same = self.voxels = 0
        self._figures: list[float] = []
        self._drawn: list[tuple[np.ndarray, np.ndarray, Case]] = []

    def add(self, logits: np.ndarray, expected: np.ndarray, sample: Sample, *, of: int) -> None:
        """Count one case of so many."""
        activation = self._config.activation
        answer = decided(logits, activation)
        label = sample.label.reshape(answer.shape)
        self.difference = float(np.maximum(self.difference, np.abs(logits - expected).max()))
        self.size = max(self.size, float(np.abs(expected).max()))
        self.same += int((answer == decided(expected, activation)).sum())
        self.voxels += answer.size
        if not self._config.has_findings:
            self._figures.append(self._figure(answer, label, sample.case, self._config))
        truth = sample.label.reshape(len(sample.label), -1).T  # a question a column
        judged = np.flatnonzero((truth != UNLABELLED).any(axis=1))
        drawn = self._rng.permutation(judged)[: max(1, VOXELS // of)]
        labels = truth[drawn].astype(np.int64)
        self._drawn.append((logits.reshape(len(logits), -1).T[drawn], labels, sample.case))

    def parity(
        self, trained: "_Tally", samples: Sequence[Sample], *, temperature: Temperature
    ) -> Parity:
        """Return how the cases were answered, beside the network as trained."""
        classes = self._config.task is Task.CLASSIFICATION
        fitted = self._temperature(by_class=not isinstance(temperature, float))
        return Parity(
            largest_logit_difference=self.difference,
            largest_logit=self.size,
            agreement=self.same / self.voxels,
            figure="accuracy" if classes else "dice",
            trained=float(np.mean(trained.figures)),
            difference=bootstrap_difference(
                np.array(self.figures),
                np.array(trained.figures),
                [sample.case.patient for sample in samples],
                draws=self._config.evaluate.bootstrap,
                seed=self._config.study.seed,
            ),
            trained_temperature=temperature,
            trained_ece=trained.ece(temperature),
            temperature=fitted,
            ece=self.ece(fitted),
        )

    @property
    def figures(self) -> list[float]:
        """Return the figure of each case.

        Of findings, the share that is told right at the network's own operating points, which a
        release has as well: a rare one is seldom given a probability of a half.
        """
        if not self._config.has_findings:
            return self._figures
        logits = np.nan_to_num(np.concatenate([said for said, _, _ in self._drawn]))
        labels = np.concatenate([told for _, told, _ in self._drawn])
        at = partial(threshold_at_specificity, specificity=self._config.evaluate.specificity)
        is_right = (logits >= by_class(at, logits, labels)) == (labels == 1)
        judged = labels != UNLABELLED
        return ((is_right & judged).sum(axis=1) / judged.sum(axis=1)).tolist()

    def _temperature(self, *, by_class: bool) -> Temperature:
        return fit_drawn(
            np.concatenate([logits for logits, _, _ in self._drawn]),
            np.concatenate([labels for _, labels, _ in self._drawn]),
            by_class=by_class,
            possible=possible_of([(labels, case) for _, labels, case in self._drawn], self._config),
        )

    def ece(self, temperature: Temperature) -> float:
        """Return the expected calibration error at a temperature."""
        bins, activation = CalibrationBins(), self._config.activation
        for logits, labels, case in self._drawn:
            said = probabilities(tempered(logits.T, temperature, activation), activation)
            count_calibration(
                bins,
                in_label_terms(said, case, self._config),
                without_channel(labels.T, self._config),
                activation,
                told=covered(case, self._config),
            )
        return bins.ece


def _mean_dice(answer: np.ndarray, label: np.ndarray, case: Case, config: Config) -> float:
    (answer,) = of_judged_voxels(answer, reference=label)
    masks = (structure_masks(each, config) for each in (answer, label))
    pairs = zip(*masks, covered_questions(case, config), strict=True)
    return float(np.mean([dice(said, there) for said, there, is_told in pairs if is_told]))


def _accuracy(answer: np.ndarray, label: np.ndarray, case: Case, config: Config) -> float:
    del case, config
    return float((answer == label).mean())
