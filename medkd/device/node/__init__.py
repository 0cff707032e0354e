"""node: a release as a DICOM node: images come in, answers are sent on."""
