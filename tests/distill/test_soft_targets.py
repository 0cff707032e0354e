import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from medkd.distill import soft_targets
from medkd.distill.soft_targets import FLOOR, write_soft_target


@pytest.fixture
def log_p():
    logits = 12 * np.random.default_rng(0).normal(size=(4, 8, 8, 8))
    return log_softmax(logits, axis=0).astype(np.float32)


def test_tempered_probabilities_survive_the_file(tmp_path, log_p):
    write_soft_target(tmp_path / "case.npy", log_p)
    stored = np.load(tmp_path / "case.npy")
    assert stored.dtype == np.float16
    tempered = softmax(np.maximum(log_p, FLOOR) / 4, axis=0)
    read = softmax(stored.astype(np.float32) / 4, axis=0)
    assert rel_entr(tempered, read).sum(axis=0).mean() < 1e-6


def test_probabilities_in_float16_would_not_survive(log_p):
    """Why log-probabilities are kept: small probabilities round to 0 and cannot be tempered."""
    stored = np.exp(log_p).astype(np.float16).astype(np.float32)
    tempered = softmax(log_p / 4, axis=0)
    read = softmax(np.log(np.maximum(stored, 1e-10)) / 4, axis=0)
    assert rel_entr(tempered, read).sum(axis=0).mean() > 1e-3


def test_certainty_is_written_as_the_floor(tmp_path):
    write_soft_target(tmp_path / "case.npy", np.array([0, -np.inf], np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "case.npy"), [0, FLOOR])


def test_a_write_that_is_killed_leaves_no_soft_target(tmp_path, log_p, monkeypatch):
    def half(file, array):
        file.write(array.tobytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(soft_targets.np, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write_soft_target(tmp_path / "fold" / "case.npy", log_p)
    assert not (tmp_path / "fold" / "case.npy").exists()
