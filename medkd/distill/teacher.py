"""Teacher: trained networks that stay in evaluation mode and pass no gradient.

``FrozenTeacher`` answers as an ensemble; ``OnlineTeacher`` is asked for a batch of training patches
while the student trains, each patch by the members that may speak of it.
"""

import math
from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medkd.distill.features import tapped
from medkd.models.activation import log_probabilities, probabilities, tempered
from medkd.types import Activation, Temperature


class FrozenTeacher(nn.Module):
    """An ensemble of trained networks, wrapped so that nothing downstream can train it.

    Probabilities are averaged, not logits: a confident member would otherwise overrule the
    others' doubt. Each member has its own calibration temperature, and its weight in the mean.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        temperatures: Sequence[Temperature],
        weights: Sequence[float] | None = None,
        activation: Activation = Activation.SOFTMAX,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.requires_grad_(False).eval() for member in members)
        self.temperatures = tuple(temperatures)
        self.weights = tuple(weights or [1.0] * len(members))
        self.activation = activation

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Ignore ``mode``: batch norm and dropout of a teacher never leave evaluation."""
        del mode
        super().train(False)
        return self

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, " batch channels *space"]
    ) -> Float[Tensor, " batch classes *out"]:
        """Return the log of the members' mean probability, or of its odds, detached.

        A single member gives its logits divided by its temperature, which differ from the log
        probabilities by a constant per voxel and export to a smaller graph.
        """
        if len(self.members) == 1:
            return tempered(self.members[0](image), self.temperatures[0], self.activation)
        said = [
            tempered(member(image).float(), temperature, self.activation)
            for member, temperature in zip(self.members, self.temperatures, strict=True)
        ]
        log_p = self._log_mean(said)
        if self.activation is Activation.SOFTMAX:
            return log_p
        return log_p - self._log_mean([-logits for logits in said])  # 1 - p would round to 0

    def _log_mean(self, said: Sequence[Tensor]) -> Tensor:
        """Return the log of the weighted mean of the probabilities of logits.

        By their logarithms, for a runtime may round a small probability to 0.
        """
        total = sum(self.weights)
        weighted = [
            log_probabilities(logits, self.activation) + math.log(weight / total)
            for logits, weight in zip(said, self.weights, strict=True)
        ]
        logs = torch.stack(weighted)
        largest = logs.amax(dim=0)
        return largest + (logs - largest).exp().sum(dim=0).log()


class OnlineTeacher(FrozenTeacher):
    """Teachers that look at the very patch that the student sees."""

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        flip_axes: Sequence[int] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Make an ensemble as ``FrozenTeacher`` does.

        Args:
            members: trained networks.
            flip_axes: of space; each member's probabilities are averaged over all combinations of
                these flips, as those that are stored. Features are those of the patch as it is.
            options: of ``FrozenTeacher``.
        """
        super().__init__(members, **options)
        self.flips = flips(flip_axes)

    @torch.no_grad()
    def said(
        self,
        image: Float[Tensor, " batch channels *space"],
        asked: Float[Tensor, "batch members"],
        *,
        layers: Sequence[str] = (),
    ) -> tuple[Float[Tensor, " batch classes *out"], dict[str, Tensor]]:
        """Return the mean probability, and the features of each layer by name.

        Args:
            image: augmented patches.
            asked: the weight of each member for each patch; 0 where it may not speak, because it
                was trained on the patient.
            layers: those whose features are wanted.
        """
        parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        for number, (member, temperature) in enumerate(
            zip(self.members, self.temperatures, strict=True)
        ):
            rows = asked[:, number].nonzero()[:, 0]
            if len(rows):
                with tapped(member, layers) as features:
                    answer = self._answered(member, image[rows], temperature)
                for axes in self.flips[1:]:
                    answer = answer + self._answered(member, image[rows], temperature, axes)
                answer = answer / len(self.flips)
                share = (asked[rows, number] / asked[rows].sum(dim=1)).to(answer)
                weighted = answer * share.reshape(-1, *[1] * (answer.ndim - 1))
                parts.append((rows, weighted, dict(features)))
        mean = _gathered([(rows, weighted) for rows, weighted, _ in parts], len(image))
        return mean, {
            layer: _gathered(
                [(rows, features[layer].float()) for rows, _, features in parts], len(image)
            )
            for layer in layers
        }

    def _answered(
        self,
        member: nn.Module,
        image: Tensor,
        temperature: Temperature,
        axes: Sequence[int] = (),
    ) -> Tensor:
        """Return the probabilities of one member for images that are flipped, and back again."""
        turned = [axis + 2 for axis in axes]
        logits = tempered(member(image.flip(turned)).float(), temperature, self.activation)
        answer = probabilities(logits, self.activation)
        return answer.flip(turned) if answer.ndim == image.ndim else answer


def flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all combinations of flips, none of them first.

    Example:
        >>> flips([0, 2])
        [(), (0,), (2,), (0, 2)]
    """
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def _gathered(parts: Sequence[tuple[Tensor, Tensor]], size: int) -> Tensor:
    """Add up what was said of some rows each."""
    first = parts[0][1]
    total = first.new_zeros(size, *first.shape[1:])
    for rows, values in parts:
        total.index_add_(0, rows, values)
    return total
