"""Features: what layers of a network put out, and adapters that bring them to another's shape."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.errors import ConfigError
from medkd.registry import did_you_mean

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the output of each named layer while the block runs; hooks are gone afterwards.

    Args:
        model: any network; it is not changed.
        layers: names as in ``model.named_modules()``.

    Raises:
        ConfigError: a layer that the network does not have.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> with tapped(network, ["0"]) as features:
        ...     _ = network(torch.zeros(1, 1, 8, 8))
        >>> features["0"].shape
        torch.Size([1, 4, 6, 6])
    """
    modules = dict(model.named_modules())
    collected: dict[str, Tensor] = {}
    hooks = []
    try:
        for name in layers:
            if name not in modules:
                known = [n for n in modules if n]
                raise ConfigError(
                    f"no layer {name!r} in {type(model).__name__}; {did_you_mean(name, known)}"
                    f"it has {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
                )
            hooks.append(modules[name].register_forward_hook(_keep(collected, name)))
        yield collected
    finally:
        for hook in hooks:
            hook.remove()


def _keep(collected: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        del module, inputs
        # what follows may change it in place, as activations do
        collected[name] = output.clone() if isinstance(output, Tensor) else output

    return keep


class Adapter(nn.Module):
    """A 1 x 1 convolution and an interpolation, from the student's features to the teacher's shape.

    It is trained with the student and stays behind when the student is exported.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        """Make an adapter between features of these shapes, ``[batch, channels, *space]``."""
        super().__init__()
        convolution = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(student) - 2]
        options = {} if convolution is nn.Linear else {"kernel_size": 1}
        self.convolution = convolution(student[1], teacher[1], **options)

    def forward(
        self, student: Float[Tensor, " batch channels *space"], space: Sequence[int]
    ) -> Float[Tensor, " batch teacher_channels *teacher_space"]:
        """Return the student's features with the teacher's channels on the grid ``space``."""
        return resize(self.convolution(student), space)


def on_grid(
    voxels: Shaped[Tensor, " batch *any"], maps: Float[Tensor, " batch channels *space"]
) -> Float[Tensor, " batch *space"]:
    """Bring what is known of each voxel to the grid of some features, by nearest neighbour."""
    if voxels.shape[1:] == maps.shape[2:]:
        return voxels.float()
    return F.interpolate(voxels[:, None].float(), size=maps.shape[2:], mode="nearest-exact")[:, 0]


def resize(maps: Tensor, space: Sequence[int]) -> Tensor:
    """Interpolate ``[batch, channels, *any]`` linearly to ``[batch, channels, *space]``."""
    if tuple(maps.shape[2:]) == tuple(space):
        return maps
    return F.interpolate(maps, size=tuple(space), mode=LINEAR[len(space)], align_corners=False)
