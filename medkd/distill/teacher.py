"""FrozenTeacher: trained networks that stay in evaluation mode and pass no gradient."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FrozenTeacher(nn.Module):
    """An ensemble of trained networks, wrapped so that nothing downstream can train it.

    Probabilities are averaged, not logits: a confident member would otherwise overrule the
    others' doubt. Each member has its own calibration temperature, and its weight in the mean.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        temperatures: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.requires_grad_(False).eval() for member in members)
        self.temperatures = tuple(temperatures)
        self.weights = tuple(weights or [1.0] * len(members))

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Ignore ``mode``: batch norm and dropout of a teacher never leave evaluation."""
        del mode
        super().train(False)
        return self

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, " batch channels *space"]
    ) -> Float[Tensor, " batch classes *out"]:
        """Return the log of the members' mean probability, detached.

        A single member gives its logits divided by its temperature, which differ from the log
        probabilities by a constant per voxel and export to a smaller graph.
        """
        if len(self.members) == 1:
            return self.members[0](image) / self.temperatures[0]
        weighted = [
            weight * torch.softmax(member(image).float() / temperature, dim=1)
            for member, temperature, weight in zip(
                self.members, self.temperatures, self.weights, strict=True
            )
        ]
        return (torch.stack(weighted).sum(dim=0) / sum(self.weights)).clamp_min(1e-12).log()
