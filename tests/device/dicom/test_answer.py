import numpy as np
import pytest
from pydicom.uid import ComprehensiveSRStorage, SegmentationStorage

from medkd.data.dicom.volume import read
from medkd.device import load
from medkd.device.dicom.answer import as_dicom
from medkd.device.dicom.source import Source
from medkd.device.predictor import Prediction
from medkd.errors import DataError


def test_a_segmentation_is_a_seg_and_a_classification_an_sr(
    release_3d, release_classes, write_series, tmp_path
):
    folder = write_series(tmp_path / "one")
    volume = read(folder)
    source = Source.read(sorted(folder.iterdir()), volume)
    answers = {
        release_3d: Prediction(mask=np.zeros(volume.shape, np.uint8)),
        release_classes: Prediction(
            probabilities=np.array([0.25, 0.75]), confidence={"bright": 1.0}
        ),
    }
    made = {
        release: as_dicom(answer, volume, source, load(release).manifest)
        for release, answer in answers.items()
    }
    assert made[release_3d].SOPClassUID == SegmentationStorage
    assert made[release_classes].SOPClassUID == ComprehensiveSRStorage
    for dataset in made.values():
        assert dataset.PatientID == source.headers[0].PatientID
        assert dataset.StudyInstanceUID == source.headers[0].StudyInstanceUID


def test_images_that_nothing_can_refer_to_get_neither(release_classes, write_series, tmp_path):
    folder = write_series(tmp_path / "one")
    volume = read(folder)
    source = Source.read(sorted(folder.iterdir()), volume)
    for header in source.headers:
        del header.StudyInstanceUID
    answer = Prediction(probabilities=np.array([0.25, 0.75]), confidence={"bright": 1.0})
    with pytest.raises(DataError, match="no DICOM SR can refer to these images"):
        as_dicom(answer, volume, source, load(release_classes).manifest)
