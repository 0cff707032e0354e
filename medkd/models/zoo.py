"""Zoo: the networks a config may name.

A factory takes ``in_channels``, ``classes`` and ``spatial_dims``, and by keyword the options of the
config; it returns a network from ``[batch, in_channels, *space]`` to logits
``[batch, classes, *space]`` (segmentation) or ``[batch, classes]`` (classification).
"""

from torch import nn

from medkd.config import NamedOptions
from medkd.models import students, teachers
from medkd.registry import Registry
from medkd.types import Task

MODELS: dict[Task, Registry[nn.Module]] = {task: Registry(f"{task} model") for task in Task}
MODELS[Task.SEGMENTATION].register("dynunet")(teachers.dynunet)
MODELS[Task.SEGMENTATION].register("segresnet")(teachers.segresnet)
MODELS[Task.SEGMENTATION].register("plain_unet")(students.plain_unet)
MODELS[Task.CLASSIFICATION].register("densenet")(teachers.densenet)
MODELS[Task.CLASSIFICATION].register("resnet")(teachers.resnet)


def build_model(
    options: NamedOptions, *, task: Task, in_channels: int, classes: int, spatial_dims: int
) -> nn.Module:
    """Build the network that ``options`` names.

    Raises:
        ConfigError: the name or an option is unknown; both messages list what is known.
    """
    factory = MODELS[task].factory(options.name, options.options)
    return factory(in_channels, classes, spatial_dims, **options.options)
