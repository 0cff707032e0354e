import pydicom
from pydicom.uid import RLELossless

from medkd.data.dicom.volume import read
from medkd.device import load
from medkd.device.dicom.source import Source, algorithm, concept
from medkd.options import Code


def test_a_class_without_a_code_gets_one_of_our_own_that_fits_its_limits():
    made = concept(None, "structure " * 9)
    assert made.scheme_designator == "99MEDKD"
    assert len(made.value) <= 16
    assert len(made.meaning) <= 64
    given = concept(Code(value="10200004", meaning="Liver"), "l")
    assert (given.value, given.scheme_designator, given.meaning) == ("10200004", "SCT", "Liver")


def test_a_release_is_identified_by_all_that_its_answers_depend_on(release_3d, changed):
    before = algorithm(load(release_3d).manifest)[1]
    assert algorithm(load(changed(release_3d, temperature=9.0)).manifest)[1] != before


def test_a_uid_follows_from_pixels_and_patient_however_they_are_encoded(
    release_3d, write_series, tmp_path
):
    folder = write_series(tmp_path / "one")
    files, manifest = sorted(folder.iterdir()), load(release_3d).manifest

    def uid_after(change):
        for file in files:
            image = pydicom.dcmread(file)
            change(image)
            image.save_as(file)
        return Source.read(files, read(folder)).uid(manifest, "segmentation")

    first = uid_after(lambda image: None)
    same = [
        uid_after(lambda image: image.compress(RLELossless, generate_instance_uid=False)),
        uid_after(lambda image: image.decompress(generate_instance_uid=False)),
        uid_after(lambda image: setattr(image, "InstitutionName", "WARD")),
    ]
    assert {*same} == {first}
    darker = uid_after(lambda image: setattr(image, "PixelData", bytes(len(image.PixelData))))
    of_another = uid_after(lambda image: setattr(image, "PatientID", "MRN0043"))
    assert len({first, darker, of_another}) == 3
