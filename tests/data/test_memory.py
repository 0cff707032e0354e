from pathlib import Path

import numpy as np
import pytest

from medkd.data.memory import PIECE, pieces, refuse_larger, smallest_type
from medkd.errors import TooLargeError


def test_what_fits_is_let_through_and_one_byte_more_is_not():
    refuse_larger(Path("a.nii"), 2**20, memory_bytes=2**20)
    said = r"a\.nii: takes 0\.000977 GiB \(9x9 pixels\), and preprocess\.reading\.memory_gib allows"
    with pytest.raises(TooLargeError, match=said):
        refuse_larger(Path("a.nii"), 2**20 + 1, memory_bytes=2**20, of="9x9 pixels")


@pytest.mark.parametrize("shape", [(), (0, 3), (PIECE + 1,), (2, 3, PIECE), (1, 130, 129, 128)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_are_small_and_together_the_array(shape, order):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), order=order)
    found = list(pieces(array))
    assert max(piece.size for piece in found) <= PIECE
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in found]), array.ravel())


@pytest.mark.parametrize(
    ("least", "most", "dtype"),
    [(0, 255, "u1"), (0, 256, "u2"), (-1, 1, "i1"), (-1, 128, "i2"), (3, 65535, "u2")],
)
def test_the_smallest_type_holds_both_ends(least, most, dtype):
    assert smallest_type(least, most) == np.dtype(dtype)
