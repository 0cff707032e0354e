"""Report: class probabilities as a DICOM structured report (TID 1500, Measurement Report)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from medkd.device.dicom.source import Source, algorithm, concept, own_concept, quietly
from medkd.device.manifest import Manifest
from medkd.device.predictor import Prediction
from medkd.errors import DataError
from medkd.types import Volume

IMAGING_STUDY = ("18748-4", "LN", "Diagnostic imaging study")  # LOINC


def report(prediction: Prediction, volume: Volume, source: Source, manifest: Manifest) -> Dataset:
    """Return a classification as a report about its images.

    The group of measurements (TID 1501) holds the likeliest class as its finding, a calibrated
    probability for each class, the classes of the conformal set, the guard's verdict, and what was
    mended to read the image. Where an image may have several findings there is a group of each,
    with its own probability, whether it is present at its operating point, and whether it is not
    ruled out.

    Raises:
        DataError: the source images do not have what an object that refers to them needs.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    quietly()
    try:
        content = hd.sr.MeasurementReport(
            observation_context=_observer(source, manifest),
            procedure_reported=hd.sr.CodedConcept(*IMAGING_STUDY),
            imaging_measurements=_groups(prediction, volume, source, manifest),
            title=codes.DCM.ImagingMeasurementReport,
            referenced_images=source.headers,
        )
        return hd.sr.ComprehensiveSR(
            evidence=source.headers,
            content=content[0],
            is_complete=True,
            is_final=False,  # nobody has looked at it
            is_verified=False,
            series_description=f"medkd {manifest.role}" + _unlike(prediction),
            **source.equipment(manifest, "report"),
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"no DICOM SR can refer to these images ({reason})") from None


def _unlike(prediction: Prediction) -> str:
    return " UNLIKE VALIDATED DATA" if prediction.finding and prediction.finding.is_unlike else ""


def _observer(source: Source, manifest: Manifest) -> Any:  # noqa: ANN401
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=source.uid(manifest, "device"), name="medkd", model_name=algorithm(manifest)[0]
    )
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
    )


def _groups(
    prediction: Prediction, volume: Volume, source: Source, manifest: Manifest
) -> list[Any]:
    assert prediction.probabilities is not None
    likeliest = manifest.classes[int(np.argmax(prediction.probabilities))]
    measured = {likeliest: manifest.classes}
    if manifest.has_findings:
        measured = {name: (name,) for name in manifest.classes}
    groups = [
        _group(prediction, source, manifest, of=of, measured=names)
        for of, names in measured.items()
    ]
    for group in groups:
        group[0].ContentSequence.extend(_told(prediction, volume))
    return groups


def _told(prediction: Prediction, volume: Volume) -> list[Any]:
    """Return the guard's verdict and what was mended, in words."""
    import highdicom as hd

    told = [("guard", prediction.finding.verdict)] if prediction.finding else []
    told += [("mended", remedy) for remedy in volume.remedies]
    return [
        hd.sr.TextContentItem(
            name=own_concept(name),
            value=text,
            relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
        )
        for name, text in told
    ]


def _group(
    prediction: Prediction,
    source: Source,
    manifest: Manifest,
    *,
    of: str,
    measured: Sequence[str],
) -> Any:  # noqa: ANN401
    """Return the group whose finding is one class, with the probabilities of some."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    assert prediction.probabilities is not None
    name, version = algorithm(manifest)
    said = dict(zip(manifest.classes, map(float, prediction.probabilities), strict=True))
    classes = {c: concept(manifest.codes.get(c), c) for c in measured}
    kind = f"finding {of}" if manifest.has_findings else "finding"
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=source.uid(manifest, kind), identifier=f"medkd {manifest.role}"
        ),
        finding_type=classes[of],
        algorithm_id=hd.sr.AlgorithmIdentification(name=name, version=version),
        measurements=[
            hd.sr.Measurement(
                name=coded,
                value=said[c],
                unit=codes.UCUM.NoUnits,
                derivation=own_concept("probability"),
            )
            for c, coded in classes.items()
        ],
        qualitative_evaluations=_evaluations(prediction, classes, manifest),
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)
            for header in source.headers
        ],
    )


def _evaluations(
    prediction: Prediction, classes: Mapping[str, Any], manifest: Manifest
) -> list[Any]:
    import highdicom as hd

    said = []
    if manifest.has_findings:
        (name,) = classes
        verdict = own_concept("present" if name in prediction.confidence else "absent")
        said.append(hd.sr.QualitativeEvaluation(own_concept("found"), verdict))
    said += [
        hd.sr.QualitativeEvaluation(own_concept("possible"), classes[name])
        for name in prediction.possible
        if name in classes
    ]
    if prediction.finding:
        verdict = own_concept("unlike" if prediction.finding.is_unlike else "like")
        said.append(hd.sr.QualitativeEvaluation(own_concept("guard"), verdict))
    return said
