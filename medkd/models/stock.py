"""Stock: MONAI's own networks, which remember how they can be built without medkd."""

from collections.abc import Callable
from typing import Any

from torch import nn

DEFINITION = "monai_definition"


def stock(network: Callable[..., nn.Module], **arguments: Any) -> nn.Module:  # noqa: ANN401
    """Build one of MONAI's networks.

    Args:
        network: its class.
        arguments: JSON values.
    """
    built = network(**arguments)
    target = f"{network.__module__}.{network.__qualname__}"
    setattr(built, DEFINITION, {"_target_": target, **arguments})
    return built


def definition_of(network: nn.Module) -> dict[str, Any] | None:
    """Return the entry of a MONAI config that builds a network; None if it is not a stock one."""
    return getattr(network, DEFINITION, None)


def altered(network: nn.Module) -> nn.Module:
    """Say that a network is no longer what MONAI would build."""
    if definition_of(network):
        delattr(network, DEFINITION)
    return network
