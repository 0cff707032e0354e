"""Answer: the DICOM object of a release's answer, whatever its task."""

from pydicom import Dataset

from medkd.device.dicom.report import report
from medkd.device.dicom.segmentation import segmentation
from medkd.device.dicom.source import Source
from medkd.device.manifest import Manifest
from medkd.device.predictor import Prediction
from medkd.types import Task, Volume


def as_dicom(prediction: Prediction, volume: Volume, source: Source, manifest: Manifest) -> Dataset:
    """Return a SEG object for a segmentation, an SR for a classification.

    Raises:
        DataError: no such object can refer to the source images.
    """
    if manifest.task is Task.SEGMENTATION:
        return segmentation(prediction, volume, source, manifest)
    return report(prediction, volume, source, manifest)
