from io import BytesIO

import numpy as np
import pydicom
from hypothesis import given
from hypothesis import strategies as st

from medkd.device.node.seal import is_intact, sealed


def test_a_sealed_file_reads_as_before(mr_slice):
    buffer = BytesIO()
    before = mr_slice("s", 0, np.arange(12).reshape(3, 4))
    before.save_as(buffer, enforce_file_format=True)
    after = pydicom.dcmread(BytesIO(sealed(buffer.getvalue())))
    assert after == before
    assert after.preamble != bytes(128)


@given(st.binary(min_size=140, max_size=200), st.data())
def test_a_file_that_was_cut_off_or_changed_is_told(content, data):
    file = sealed(content)
    assert is_intact(file)
    at = data.draw(st.integers(0, len(file) - 1))
    changed = bytearray(file)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_intact(file[:at])
    assert not is_intact(bytes(changed))
