"""Zoo: the networks a config may name.

A factory takes ``in_channels``, ``classes`` and ``spatial_dims`` and options of its own, and
returns a network from ``[batch, in_channels, *space]`` to logits ``[batch, classes, *space]``
(segmentation) or ``[batch, classes]`` (classification).
"""

from torch import nn

from medkd.config import NamedOptions
from medkd.registry import Registry
from medkd.types import Task

MODELS: dict[Task, Registry[nn.Module]] = {
    Task.SEGMENTATION: Registry("segmentation model"),
    Task.CLASSIFICATION: Registry("classification model"),
}


def build_model(
    options: NamedOptions, *, task: Task, in_channels: int, classes: int, spatial_dims: int
) -> nn.Module:
    """Build the network that ``options`` names.

    Raises:
        ConfigError: the name or an option is unknown; both messages list what is known.
    """
    from medkd.models import students, teachers  # noqa: F401  their import fills the registry

    fixed = {"in_channels": in_channels, "classes": classes, "spatial_dims": spatial_dims}
    return MODELS[task].build(options.name, **fixed, **options.options)
