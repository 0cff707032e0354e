"""DICOM: series of any modality into volumes; geometry is never guessed.

pydicom and its decoders take longer to load than a device takes to answer, so ``files`` alone is
free of them: ``reader`` imports the rest when it meets a DICOM file.
"""

from medkd.data.dicom.files import is_dicom

__all__ = ["is_dicom"]
