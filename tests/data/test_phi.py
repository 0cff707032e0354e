import re
import stat

from hypothesis import given
from hypothesis import strategies as st

from medkd.data.phi import key, study_salt


@given(st.text(min_size=3), st.binary(min_size=8))
def test_a_key_is_stable_and_holds_nothing_of_the_id(identifier, salt):
    one = key(identifier, salt=salt)
    assert one == key(identifier, salt=salt)
    assert re.fullmatch(r"case-[0-9a-f]{16}", one)
    assert not identifier.isascii() or identifier.lower() not in one or len(identifier) < 5


def test_another_salt_or_id_gives_another_key():
    keys = {key(i, salt=s) for i in ("DOE^JANE", "DOE^JOHN", "7") for s in (b"one", b"two")}
    assert len(keys) == 6


def test_a_case_and_a_patient_of_one_id_have_nothing_in_common():
    case, patient = key("7", salt=b"one"), key("7", salt=b"one", kind="patient")
    assert case.removeprefix("case-") != patient.removeprefix("patient-")


def test_as_many_ids_as_the_largest_data_sets_hold_have_keys_of_their_own():
    keys = {key(str(number), salt=b"fixed") for number in range(200_000)}
    assert len(keys) == 200_000


def test_a_study_keeps_its_salt_and_shares_it_with_no_other(tmp_path):
    salt = study_salt(tmp_path / "new" / "study")
    assert len(salt) >= 16
    assert study_salt(tmp_path / "new" / "study") == salt
    assert study_salt(tmp_path / "other") != salt
    assert stat.S_ISREG((tmp_path / "other" / ".salt").stat().st_mode)
