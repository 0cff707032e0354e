"""Check models: every network and loss of a config is tried before any data is read."""

import torch
from torch import nn

from medkd.config import Config
from medkd.data.augment import augmentation
from medkd.distill.objective import Objective
from medkd.distill.teacher import OnlineTeacher
from medkd.errors import ConfigError
from medkd.models.zoo import build_for
from medkd.options import TrainOptions
from medkd.train.distributed import world_size
from medkd.train.steps import DistillStep, SupervisedStep
from medkd.types import Task

UNFIT = (RuntimeError, ValueError, TypeError, AssertionError)  # what networks and losses raise


def check_models(config: Config, *, task: Task | None = None) -> None:
    """Build every network, push an empty window through, and take a step of the distillation.

    Raises:
        ConfigError: the config is for another ``task``, a name, option or layer is unknown, a
            network cannot take the window, or a loss cannot take an option's value.
    """
    if task and config.task is not task:
        raise ConfigError(f"task: {config.task}; run pipelines/{config.task}.py")
    augmentation(config.augment, config.preprocess, soft=True)
    teacher = _network(config, "teacher") if config.teacher.model else None
    student = _network(config, "student")
    _check_losses(config, student, teacher)


def _network(config: Config, key: str) -> nn.Module:
    model, train = config.trained_in(key)
    window = list(config.preprocess.window)
    remedy = "choose a window that every level of the network can halve"
    try:
        network = build_for(config, model).eval()
        with torch.no_grad():
            logits = network(torch.zeros(1, config.preprocess.channels, *window))
    except ConfigError as error:
        raise ConfigError(f"{key}.model: {error}") from None
    except UNFIT as error:
        raise ConfigError(
            f"{key}.model: {model.name} cannot take preprocess.window {window} ({error}); "
            f"{remedy}, or correct the model's options"
        ) from None
    if logits.shape != (1, len(config.classes), *_space(config)):
        raise ConfigError(
            f"{key}.model: {model.name} turns preprocess.window {window} into "
            f"{list(logits.shape[2:])}; {remedy}"
        )
    if train.batch % world_size():
        raise ConfigError(
            f"{key}.train.batch: {train.batch} cannot be shared evenly by {world_size()} processes"
        )
    _check_batch_of_one(key, network, config, train)
    try:
        SupervisedStep(config, train).adapt(network)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from None
    return network


def _check_batch_of_one(key: str, network: nn.Module, config: Config, train: TrainOptions) -> None:
    """Refuse one image a process where a batch norm would see a single value a channel."""
    if train.batch // world_size() > 1:
        return
    window = config.preprocess.window
    try:
        with torch.no_grad():
            network.train()(torch.zeros(1, config.preprocess.channels, *window))
    except ValueError as error:
        raise ConfigError(
            f"{key}.train.batch: {train.batch} leaves one image a process, of which a batch norm "
            f"sees one value a channel ({error}); give two or more, or a larger preprocess.window"
        ) from None
    network.eval()


def _check_losses(config: Config, student: nn.Module, teacher: nn.Module | None) -> None:
    """Take one step on an empty window, by untrained networks."""
    space = _space(config)
    batch = {
        "image": torch.zeros(1, config.preprocess.channels, *config.preprocess.window),
        "soft": torch.full((1, len(config.classes), *space), 1 / len(config.classes)),
        "label": torch.zeros(1, *_channels(config), *space, dtype=torch.int64),
        "valid": torch.ones(1, *space, dtype=torch.bool),
        "asked": torch.ones(1, 1),
    }
    asked = OnlineTeacher([teacher], temperatures=[1.0]) if teacher else None
    try:
        if config.distill.online and asked is None:
            # the rest is seen when the external teacher is opened
            Objective(config.distill, config.activation)
            return
        step = DistillStep(config, teacher=asked if config.distill.online else None)
        step.adapt(student)
        with torch.no_grad():
            step(student, batch, 0)
    except (ConfigError, *UNFIT) as error:
        raise ConfigError(f"distill.losses: {error}") from None


def _channels(config: Config) -> tuple[int, ...]:
    """The axis of structures, or findings, in a label, where they may overlap."""
    return (len(config.classes),) if config.data.overlapping else ()


def _space(config: Config) -> tuple[int, ...]:
    """The spatial shape of an answer."""
    return () if config.task is Task.CLASSIFICATION else config.preprocess.window
