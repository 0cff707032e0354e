import os
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import config
from scipy import ndimage


@pytest.fixture
def unchecked():
    """Switch the tests' type checks off, to meet the errors that a user meets."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def blob():
    """Return a maker of smooth random masks, the same for the same seed."""

    def make(shape, *, seed, smooth=2.0):
        noise = np.random.default_rng(seed).normal(size=shape)
        field = ndimage.gaussian_filter(noise, smooth)
        return field > field.std()

    return make


@pytest.fixture
def data_root():
    if "MEDKD_DATA" not in os.environ:
        pytest.skip("MEDKD_DATA is not set")
    return Path(os.environ["MEDKD_DATA"])
