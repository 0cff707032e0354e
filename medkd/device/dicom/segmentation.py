"""Segmentation: a mask as a DICOM SEG object (PS3.3 A.51) that refers to its source images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom import Dataset

from medkd import __version__
from medkd.device.dicom.source import Source, algorithm, concept, quietly
from medkd.device.manifest import Manifest
from medkd.device.predictor import Prediction
from medkd.errors import DataError
from medkd.options import ANATOMICAL_STRUCTURE
from medkd.types import Activation, Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNLIKE = "UNLIKE VALIDATED DATA"  # is what viewers show of a series


def segmentation(
    prediction: Prediction, volume: Volume, source: Source, manifest: Manifest
) -> Dataset:
    """Return the mask as a SEG object, one segment a structure, in the order of the classes.

    Its UIDs follow from the release and the images: the same answer has the same.

    Args:
        prediction: with a mask.
        volume: the image, whose grid the mask is on.
        source: the images that it was read from.
        manifest: of the release.

    Raises:
        DataError: the source images do not have what an object that refers to them needs.
    """
    import highdicom as hd

    assert prediction.mask is not None
    quietly()
    for header in source.headers:  # a missing one is that of the grid
        header.SliceThickness = header.get("SliceThickness") or volume.spacing_mm[0]
    finding = prediction.finding
    is_unlike = bool(finding and finding.is_unlike)
    try:
        made = hd.seg.Segmentation(
            source_images=source.headers,
            pixel_array=_pixels(prediction.mask, volume, source, manifest),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=list(_segments(manifest)),
            manufacturer_model_name="medkd",
            software_versions=__version__,
            device_serial_number=source.uid(manifest, "device")[-16:],
            content_label="SEGMENTATION",
            content_description=(UNLIKE if is_unlike else "Automatic segmentation")
            + ", images mended" * bool(volume.remedies),
            series_description=f"medkd {manifest.role}" + f" {UNLIKE}" * is_unlike,
            **source.equipment(manifest, "segmentation"),
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"no DICOM SEG can refer to these images ({reason})") from None
    told = [finding.verdict] if finding else []
    told += [f"mended: {remedy}" for remedy in volume.remedies]
    if told:
        made.ImageComments = "; ".join(told)
    return made


def _pixels(mask: np.ndarray, volume: Volume, source: Source, manifest: Manifest) -> Any:  # noqa: ANN401
    """Return segment numbers, on the image's grid in space where it has one.

    Structures that may overlap are 0 and 1 in channels, the last axis.
    """
    import highdicom as hd

    channels: dict[Any, Any] | None = None
    if manifest.activation is Activation.SIGMOID:
        numbers = np.ascontiguousarray(np.moveaxis(mask, 0, -1))
        channels = {"SegmentNumber": list(range(1, len(mask) + 1))}
    else:
        numbers = np.zeros(mask.shape, np.uint8)
        for number, of_structure in enumerate(manifest.masks(mask), start=1):
            numbers[of_structure] = number
    if volume.dims == 2:
        return numbers[None]
    return hd.Volume(
        numbers,
        RAS_TO_LPS @ volume.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=source.headers[0].FrameOfReferenceUID,
        channels=channels,
    )


def _segments(manifest: Manifest) -> Iterator[Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name, version = algorithm(manifest)
    identification = hd.AlgorithmIdentificationSequence(
        name=name, version=version, family=codes.DCM.ArtificialIntelligence, source="medkd"
    )
    for number, structure in enumerate(manifest.structures, start=1):
        code = manifest.codes.get(structure)
        described = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=structure[:64],
            segmented_property_category=concept(
                code.category if code else ANATOMICAL_STRUCTURE, structure
            ),
            segmented_property_type=concept(code, structure),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
        )
        if code and code.modifier:
            (kind,) = described.SegmentedPropertyTypeCodeSequence
            kind.SegmentedPropertyTypeModifierCodeSequence = [concept(code.modifier, structure)]
        yield described
