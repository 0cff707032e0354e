"""require: the door to optional libraries, with an error that names the extra to install."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType

from medkd.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of medkd brings it.

    Example:
        >>> require("no_such_library", extra="train")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medkd.errors.MissingExtraError: no_such_library is not installed; pip install '.[train]' ...
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.partition(".")[0] == error.name.partition(".")[0]:
            raise _missing(error.name, extra) from None
        raise


def installing(extra: str | None = None) -> str:
    """Return how an extra of medkd is installed, or medkd itself.

    medkd is on no package index, so it is always installed from a clone.

    Example:
        >>> installing("train"), installing()
        ("pip install '.[train]' in your clone of medkd", 'pip install . in your clone of medkd')
    """
    what = f"'.[{extra}]'" if extra else "."
    return f"pip install {what} in your clone of medkd"


@contextmanager
def naming_extras() -> Iterator[None]:
    """Say which extra of medkd brings a library whose import fails meanwhile.

    Raises:
        MissingExtraError: a library that an extra names is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        raise _missing(error.name, extra) from error


def _extra_of(module: str) -> str | None:
    library = module.partition(".")[0].replace("_", "-")
    for requirement in metadata.requires("medkd") or ():
        # medkd[dicom], which an extra brings as well, is no library
        named = re.fullmatch(r"([\w.-]+)[^\w.\[-].*extra == .(\w+).", requirement)
        if named and named[1] == library:
            return named[2]
    return None


def _missing(module: str | None, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{module} is not installed; {installing(extra)}")
