from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from medkd.data.dicom.crowd import ELEMENT_BYTES, refuse_crowd
from medkd.errors import DataError


def nested(depth):
    """Return a data set with 1 + 3 elements a level, and how many steps a walk of it takes."""
    dataset = Dataset()
    dataset.PatientComments = "no name"
    for _ in range(depth):
        item, outer = dataset, Dataset()
        outer.RescaleSlope, outer.RescaleIntercept = 1, 0
        outer.PerFrameFunctionalGroupsSequence = Sequence([item])
        dataset = outer
    return dataset


@pytest.mark.parametrize("depth", [0, 1, 12])
@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize("is_little", [True, False])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_walk_meets_every_element(depth, is_implicit, is_little, undefined):
    if is_implicit and not is_little:
        pytest.skip("DICOM knows no such syntax")
    dataset, buffer = nested(depth), DicomBytesIO()
    if undefined:
        mark(dataset)
    buffer.is_little_endian, buffer.is_implicit_VR = is_little, is_implicit
    write_dataset(buffer, dataset)
    delimiters = 2 * depth if undefined else 0
    steps = 1 + 4 * depth + delimiters
    content, kind = buffer.getvalue(), {"is_implicit": is_implicit, "is_little": is_little}
    refuse_crowd(Path("x"), BytesIO(content), memory_bytes=steps * ELEMENT_BYTES, **kind)
    with pytest.raises(DataError, match="x: holds more than"):
        refuse_crowd(Path("x"), BytesIO(content), memory_bytes=(steps - 1) * ELEMENT_BYTES, **kind)


def mark(dataset):
    """Let every sequence and item be of undefined length."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                mark(item)


def test_sequences_too_deep_in_one_another_are_refused():
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, nested(40))
    with pytest.raises(DataError, match="64 deep"):
        refuse_crowd(
            Path("x"),
            BytesIO(buffer.getvalue()),
            is_implicit=False,
            is_little=True,
            memory_bytes=2**30,
        )
