"""What the registry's examples do not show."""

import pytest

from medkd.errors import ConfigError
from medkd.registry import Registry


@pytest.fixture
def boxes():
    registry = Registry("box")

    @registry.register("cube")
    def cube(scale: int, *, size: int = 2) -> int:
        return scale * size

    return registry


def test_a_name_is_taken_once(boxes):
    with pytest.raises(ValueError, match="box 'cube' is registered twice"):
        boxes.register("cube")


def test_names_are_listed_in_order(boxes):
    boxes.register("arch")(int)
    assert list(boxes) == ["arch", "cube"]


def test_only_keyword_parameters_are_options(boxes):
    assert boxes.factory("cube", {"size": 3})(2, size=3) == 6
    with pytest.raises(ConfigError, match=r"box 'cube' has no option 'scale'; .*known: size"):
        boxes.factory("cube", {"scale": 3})


def test_an_unlike_name_gets_no_suggestion(boxes):
    with pytest.raises(ConfigError, match="unknown box 'zeppelin'; known: cube"):
        boxes.build("zeppelin")
