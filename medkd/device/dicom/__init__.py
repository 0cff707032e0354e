"""dicom: answers as DICOM objects that refer to the images they are about."""
