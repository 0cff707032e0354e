from pathlib import Path

import pytest

from medkd.data.memory import refuse_larger
from medkd.errors import DataError


def test_what_fits_is_let_through_and_one_byte_more_is_not():
    refuse_larger(Path("a.nii"), 2**20, memory_bytes=2**20)
    said = r"a\.nii: takes 0\.000977 GiB \(9x9 pixels\), and preprocess\.reading\.memory_gib allows"
    with pytest.raises(DataError, match=said):
        refuse_larger(Path("a.nii"), 2**20 + 1, memory_bytes=2**20, of="9x9 pixels")
