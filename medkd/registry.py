"""Registry: a dictionary of factories that explains itself when a name or an option is wrong."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from medkd.errors import ConfigError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'? " when one of ``known`` is near ``name``, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


class Registry(Generic[T]):
    """Map short names, as written in a config file, to factories.

    A factory's keyword-only parameters are the options a config may give it.

    Example:
        >>> boxes = Registry("box")
        >>> @boxes.register("cube")
        ... def cube(*, size: int) -> int:
        ...     return size**3
        >>> boxes.build("cube", size=2)
        8
        >>> boxes.build("cubo", size=2)
        Traceback (most recent call last):
        medkd.errors.ConfigError: unknown box 'cubo'; did you mean 'cube'? known: cube
        >>> boxes.build("cube", sise=2)
        Traceback (most recent call last):
        medkd.errors.ConfigError: box 'cube' has no option 'sise'; did you mean 'size'? known: size
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._factories))

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that files a factory under ``name``, once."""
        if name in self._factories:
            raise ValueError(f"{self._kind} {name!r} is registered twice")

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            self._factories[name] = factory
            return factory

        return add

    def factory(self, name: str, options: Mapping[str, object]) -> Callable[..., T]:
        """Return the factory filed under ``name`` once its options are known to fit.

        Raises:
            ConfigError: the name or one of the options is unknown.
        """
        if name not in self._factories:
            hint = did_you_mean(name, self._factories)
            raise ConfigError(f"unknown {self._kind} {name!r}; {hint}known: {', '.join(self)}")
        parameters = inspect.signature(self._factories[name]).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise ConfigError(
                    f"{self._kind} {name!r} has no option {option!r}; "
                    f"{did_you_mean(option, known)}known: {', '.join(known) or 'none'}"
                )
        return self._factories[name]

    def build(self, name: str, **options: object) -> T:
        """Call the factory filed under ``name`` with ``options``."""
        return self.factory(name, options)(**options)
