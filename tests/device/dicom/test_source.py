from medkd.device import load
from medkd.device.dicom.source import algorithm, concept
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
