"""Zoo: the networks a config may name.

A factory takes ``in_channels``, ``classes`` and ``spatial_dims``, and by keyword the options of the
config; it returns a network from ``[batch, in_channels, *space]`` to logits
``[batch, classes, *space]`` (segmentation) or ``[batch, classes]`` (classification).
"""

from collections.abc import Callable

from torch import nn

from medkd.config import Config
from medkd.models import students, teachers
from medkd.options import NamedOptions
from medkd.registry import Registry
from medkd.types import Task

NETWORKS: dict[Task, tuple[Callable[..., nn.Module], ...]] = {
    Task.SEGMENTATION: (
        *(teachers.dynunet, teachers.segresnet, teachers.swin_unetr, teachers.mednext),
        *(students.plain_unet, students.separable_unet, students.basic_unet),
        students.flexible_unet,
    ),
    Task.CLASSIFICATION: (
        *(teachers.densenet, teachers.resnet, teachers.vit),
        students.efficientnet,
    ),
}
MODELS: dict[Task, Registry[nn.Module]] = {task: Registry(f"{task} model") for task in Task}
for _task, _networks in NETWORKS.items():
    for _network in _networks:
        MODELS[_task].register(_network.__name__)(_network)


def build_model(
    options: NamedOptions, *, task: Task, in_channels: int, classes: int, spatial_dims: int
) -> nn.Module:
    """Build the network that ``options`` names.

    Raises:
        ConfigError: the name or an option is unknown; both messages list what is known.
    """
    factory = MODELS[task].factory(options.name, options.options)
    return factory(in_channels, classes, spatial_dims, **options.options)


def build_for(config: Config, options: NamedOptions) -> nn.Module:
    """Build the network that ``options`` names for the images and classes of a study."""
    return build_model(
        options,
        task=config.task,
        in_channels=config.preprocess.channels,
        classes=len(config.classes),
        spatial_dims=config.dims,
    )
