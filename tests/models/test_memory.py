import numpy as np
import pytest
import torch

from medkd.errors import TrainingError
from medkd.models.memory import remedy_for_memory


def take_too_much_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@pytest.mark.parametrize(
    ("take_too_much", "said"),
    [
        (take_too_much_of_a_gpu, "CUDA out of memory"),
        (lambda: torch.empty(2**46), "DefaultCPUAllocator: can't allocate memory: you tried to "),
        (lambda: np.empty(2**50), r"Unable to allocate 8\.00 PiB"),
    ],
)
def test_too_little_of_it_names_the_place_and_the_remedy(take_too_much, said):
    message = rf"step 4: out of memory \({said}.*\); lower train\.batch"
    with (
        pytest.raises(TrainingError, match=message),
        remedy_for_memory("step 4", "lower train.batch"),
    ):
        take_too_much()


def test_other_faults_of_torch_are_no_lack_of_it():
    with (
        pytest.raises(RuntimeError, match="size of tensor"),
        remedy_for_memory("step 4", "lower train.batch"),
    ):
        torch.zeros(2) + torch.zeros(3)
