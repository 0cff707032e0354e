import pytest
from jaxtyping import config


@pytest.fixture
def unchecked():
    """Switch the tests' type checks off, to meet the errors that a user meets."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
