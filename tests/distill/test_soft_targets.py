import multiprocessing
import uuid

import numpy as np
import pytest
import zarr
from scipy.special import expit, log_softmax, rel_entr, softmax, xlogy

from medkd.distill import soft_targets
from medkd.distill.soft_targets import (
    FLOOR,
    STEPS,
    SoftTargetStore,
    chunks,
    decode,
    encode,
    within_reach,
)
from medkd.errors import StudyError
from medkd.types import Activation


def believed(shape, *, seed=0, scale=6.0):
    logits = scale * np.random.default_rng(seed).normal(size=shape)
    return log_softmax(logits, axis=0).astype(np.float32)


@pytest.fixture(params=["folder", "memory", "file"])
def store(request, tmp_path):
    """A store on disk, by its path or its address, and one behind fsspec."""
    folder = tmp_path / "new" / "targets.zarr"
    memory = f"memory://{uuid.uuid4().hex}"
    places = {"folder": str(folder), "memory": memory, "file": folder.as_uri()}
    return SoftTargetStore(places[request.param])


@pytest.mark.parametrize("shape", [(2,), (4, 40, 30), (3, 20, 40, 33)])
def test_what_is_written_is_read_back_within_a_step(store, shape):
    log_p = believed(shape)
    store.write("case", log_p)
    target = store.read("case")
    assert target.shape == shape
    half_a_step = 1.01 * np.sqrt(log_p * FLOOR) / STEPS + 1e-3  # the slope of their square
    assert (np.abs(target[...] - log_p) <= half_a_step).all()
    np.testing.assert_array_equal(target[..., 1:2], target[...][..., 1:2])


@pytest.mark.parametrize("fits", [True, False])
def test_few_are_read_once_and_many_patch_by_patch_with_the_same_patches(store, monkeypatch, fits):
    for name, seed in (("a", 0), ("b", 1)):
        store.write(name, believed((3, 40, 40, 40), seed=seed))
    targets = {name: store.read(name) for name in ("a", "b")}
    assert sum(target.nbytes for target in targets.values()) == 2 * 3 * 40**3
    monkeypatch.setattr(soft_targets, "KEPT_BYTES", 2 * 3 * 40**3 - (not fits))
    reached = within_reach(targets)
    assert all((reached[name] is targets[name]) != fits for name in targets)
    patch = np.s_[:, 3:35, 8:40, 20:39]
    for name, target in targets.items():
        np.testing.assert_array_equal(reached[name][patch], target[patch])


@pytest.mark.parametrize("sure_by", [0, 10, 30, 60])
@pytest.mark.parametrize("scale", [0.1, 1, 4])
def test_tempered_probabilities_survive_however_sure_the_teacher_is(scale, sure_by):
    logits = scale * np.random.default_rng(0).normal(size=(3, 16, 16, 16))
    logits[0] += sure_by
    log_p = log_softmax(logits, axis=0).astype(np.float32)
    codes = encode(log_p)
    assert codes.dtype == np.uint8
    for temperature in (1, 4):
        said, stored = (
            softmax(x.astype(np.float64) / temperature, axis=0) for x in (log_p, decode(codes))
        )
        entropy = -(said * np.log(said)).sum(axis=0).mean()
        assert rel_entr(said, stored).sum(axis=0).mean() < 1e-3 * entropy + 1e-12


def test_every_code_is_kept_when_it_is_stored_again():
    codes = np.arange(STEPS + 1, dtype=np.uint8)
    assert (np.diff(decode(codes)) < 0).all()
    np.testing.assert_array_equal(encode(decode(np.stack([codes, codes])))[0], codes)


def test_probabilities_in_float16_would_not_survive():
    """Why log-probabilities are kept: small probabilities round to 0 and cannot be tempered."""
    log_p = believed((4, 8, 8, 8), scale=12.0)
    stored = np.exp(log_p).astype(np.float16).astype(np.float32)
    said, read = softmax(log_p / 4, axis=0), softmax(np.log(np.maximum(stored, 1e-10)) / 4, axis=0)
    assert rel_entr(said, read).sum(axis=0).mean() > 1e-3


def test_a_case_that_8_bits_would_spoil_is_kept_in_16(monkeypatch, store):
    log_p = believed((3, 8, 8))
    monkeypatch.setattr(soft_targets, "LOSS_LIMIT", 0.0)
    assert encode(log_p).dtype == np.float16
    store.write("case", log_p)
    stored = store.read("case")[...]
    np.testing.assert_allclose(stored, log_p, atol=0.02)


def test_certainty_is_kept_as_the_floor(store):
    store.write("case", np.array([1e-7, -np.inf], np.float32))  # a sum of 1 may be rounded up
    np.testing.assert_array_equal(store.read("case")[:], [0, FLOOR])


def test_a_patch_is_read_without_the_volume(tmp_path, monkeypatch):
    store = SoftTargetStore(str(tmp_path / "targets.zarr"))
    store.write("case", believed((3, 96, 96, 96)))
    reads = []
    get = zarr.storage.LocalStore.get

    async def counted(self, key, *args, **options):
        reads.append(key)
        return await get(self, key, *args, **options)

    target = store.read("case")
    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    target[:, 33:60, 0:30, 70:90]
    assert len([key for key in reads if "/c/" in key]) == 1
    assert chunks((3, 96, 96, 96)) == (3, 32, 32, 32)


def test_what_was_made_from_something_else_is_refused_and_never_read(store):
    store.write("one", believed((2, 4, 4)))
    assert store.holds("one")
    assert not store.holds("other")
    with pytest.raises(
        StudyError, match=r"no soft target was made from this .*\(other\); run medkd"
    ):
        store.read("other")


def test_what_is_whole_is_not_written_again_under_the_feet_of_who_reads_it(store, monkeypatch):
    logits = np.log(np.full((2, 4, 4), 0.5, np.float32))
    store.write("key", logits)
    read = store.read("key")
    before = read[...]
    monkeypatch.setattr(soft_targets, "encode", None)
    store.write("key", logits)
    np.testing.assert_array_equal(read[...], before)


def test_one_that_is_killed_over_a_key_does_not_disturb_another_that_writes_it(store, monkeypatch):
    logits, fill = believed((2, 4, 4)), zarr.Array.__setitem__

    def die(self, place, value):
        raise KeyboardInterrupt

    def fill_while_another_is_killed(self, place, value):
        fill(self, place, value)
        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", die)
            with pytest.raises(KeyboardInterrupt):
                store.write("key", logits)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", fill_while_another_is_killed)
        store.write("key", logits)
    store.write("alone", logits)
    np.testing.assert_array_equal(store.read("key")[...], store.read("alone")[...])


def test_a_store_that_is_gone_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no soft targets there"):
        SoftTargetStore(str(tmp_path / "gone.zarr")).read("case")


def test_a_write_that_is_killed_leaves_no_soft_target(store, monkeypatch):
    store.write("whole", believed((2, 4, 4)))

    def die(self, place, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", die)
        with pytest.raises(KeyboardInterrupt):
            store.write("torn", believed((2, 4, 4)))
    assert store.holds("whole")
    assert not store.holds("torn")
    with pytest.raises(StudyError, match="no soft target"):
        store.read("torn")
    store.write("torn", believed((2, 4, 4)))
    assert store.holds("torn")


def _write(location, number):
    SoftTargetStore(location).write(f"c{number}", believed((2, 8, 8), seed=number))


def test_several_processes_write_different_cases_of_one_store(tmp_path):
    location = str(tmp_path / "targets.zarr")
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=_write, args=(location, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = SoftTargetStore(location)
    for number in range(3):
        expected = believed((2, 8, 8), seed=number)
        np.testing.assert_array_equal(store.read(f"c{number}")[...], decode(encode(expected)))


@pytest.mark.parametrize("scale", [2.0, 6.0, 12.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_odds_are_kept_in_eight_bits_whichever_way_they_point(store, scale, temperature):
    odds = scale * np.random.default_rng(0).normal(size=(3, 40, 40)).astype(np.float32)
    odds[0] = -odds[1]
    store.write("case", odds, Activation.SIGMOID)
    kept = store.read("case")[...]
    assert encode(odds, Activation.SIGMOID).dtype == np.int8
    np.testing.assert_array_equal(kept[0], -kept[1])
    p, q = (expit(np.stack([v, -v]).astype(float) / temperature) for v in (odds, kept))
    divergence, entropy = rel_entr(p, q).sum(axis=0).mean(), -xlogy(p, p).sum(axis=0).mean()
    assert divergence < 1e-3 * entropy


def test_log_probabilities_would_forget_that_a_structure_may_be_absent():
    odds = np.full((1, 8, 8), 12.0, np.float32)  # surely there, but for 6 in a million
    kept = decode(encode(odds, Activation.SIGMOID))
    lost = decode(encode(np.log(expit(odds))))
    assert expit(-kept).mean() == pytest.approx(expit(-12.0), rel=0.1)
    assert (1 - np.exp(lost)).mean() == 0
