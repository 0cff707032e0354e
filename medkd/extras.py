"""require: the only door to optional libraries, with an error that names the extra to install."""

import importlib
from types import ModuleType

from medkd.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of medkd brings it.

    Example:
        >>> require("no_such_library", extra="train")
        Traceback (most recent call last):
        medkd.errors.MissingExtraError: no_such_library is not installed; pip install 'medkd[train]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.partition(".")[0] == error.name.partition(".")[0]:
            raise MissingExtraError(
                f"{error.name} is not installed; pip install 'medkd[{extra}]'"
            ) from None
        raise
