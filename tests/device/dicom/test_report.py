from dataclasses import replace

import highdicom as hd  # noqa: TID253
import numpy as np
import pytest

from medkd.data.dicom.volume import read
from medkd.device import load
from medkd.device.dicom.report import report
from medkd.device.dicom.source import Source, save
from medkd.device.guard import Finding
from medkd.device.predictor import Prediction

UNLIKE = Finding(distance=9, limit=2, reasons=("noise: 9, expected 0-1",))
PNEUMONIA = {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"}


def read_back(release, folder, path, *, mended=(), **said):
    volume, manifest = replace(read(folder), remedies=mended), load(release).manifest
    source = Source.read(sorted(folder.iterdir()), volume)
    prediction = Prediction(probabilities=np.array([0.25, 0.75], np.float32), **said)
    save(report(prediction, volume, source, manifest), path)
    found = hd.sr.srread(path)
    (group,) = found.content.get_image_measurement_groups()
    return found, group, source


def evaluations(group):
    return {(q.name.meaning, q.value.meaning) for q in group.get_qualitative_evaluations()}


def test_probabilities_finding_and_set_come_back(release_classes, changed, write_series, tmp_path):
    release = changed(release_classes, codes={"bright": PNEUMONIA})
    found, group, _ = read_back(
        release, write_series(tmp_path / "one"), tmp_path / "sr.dcm", possible=("dark", "bright")
    )
    assert found.content[0].ContentTemplateSequence[0].TemplateIdentifier == "1500"
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    assert values == pytest.approx({"dark": 0.25, "Pneumonia": 0.75})
    assert group.finding_type.value == "233604007"
    said = {("Possible class", "dark"), ("Possible class", "Pneumonia")}
    assert evaluations(group) == said


def test_it_refers_to_the_images_and_their_patient(release_classes, write_series, tmp_path):
    found, group, source = read_back(
        release_classes, write_series(tmp_path / "one"), tmp_path / "sr.dcm"
    )
    images = {header.SOPInstanceUID for header in source.headers}
    assert {i.referenced_sop_instance_uid for i in group.source_images} == images
    (study,) = found.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedSOPSequence} == images
    assert found.PatientName == source.headers[0].PatientName
    assert found.VerificationFlag == "UNVERIFIED"


def test_the_guards_verdict_is_in_it_in_words_and_codes(release_classes, write_series, tmp_path):
    found, group, _ = read_back(
        release_classes, write_series(tmp_path / "one"), tmp_path / "sr.dcm", finding=UNLIKE
    )
    assert ("Likeness to the validated data", "Unlike the validated data") in evaluations(group)
    told = group[0].ContentSequence[-1]
    assert (told.ValueType, told.TextValue) == ("TEXT", UNLIKE.verdict)
    assert "UNLIKE VALIDATED DATA" in found.SeriesDescription


def test_what_was_mended_to_read_the_image_is_in_it(release_classes, write_series, tmp_path):
    mended = ("resample_missing: 1 slices", "shear_correct: axes 20.0 degrees off right angles")
    _, group, _ = read_back(
        release_classes, write_series(tmp_path / "one"), tmp_path / "sr.dcm", mended=mended
    )
    texts = [item for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    told = [each.TextValue for each in texts if each.name.meaning == "Mended while it was read"]
    assert told == list(mended)


def test_the_same_answer_has_the_same_uid(release_classes, write_series, tmp_path):
    folder = write_series(tmp_path / "one")
    uids = {
        read_back(release_classes, folder, tmp_path / f"{n}.dcm")[0].SOPInstanceUID
        for n in range(2)
    }
    assert len(uids) == 1


def test_each_finding_is_an_item_of_its_own(release_findings, changed, write_series, tmp_path):
    release = changed(release_findings, codes={"bright": PNEUMONIA})
    folder = write_series(tmp_path / "one")
    volume, manifest = read(folder), load(release).manifest
    source = Source.read(sorted(folder.iterdir()), volume)
    prediction = Prediction(
        probabilities=np.array([0.25, 0.875], np.float32),
        confidence={"bright": 0.875},
        possible=("dark", "bright"),
        finding=UNLIKE,
    )
    save(report(prediction, volume, source, manifest), tmp_path / "sr.dcm")
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    said = {group.finding_type.meaning: group for group in groups}
    assert said.keys() == {"dark", "Pneumonia"}
    assert said["Pneumonia"].finding_type.value == "233604007"
    for name, value, verdict in (("dark", 0.25, "Absent"), ("Pneumonia", 0.875, "Present")):
        (measured,) = said[name].get_measurements()
        assert (measured.name.meaning, measured.value) == (name, pytest.approx(value))
        assert evaluations(said[name]) == {
            ("At the operating point", verdict),
            ("Possible class", name),
            ("Likeness to the validated data", "Unlike the validated data"),
        }
    assert len({group.tracking_uid for group in groups}) == 2
