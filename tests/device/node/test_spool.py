import json
import os
import resource
import time

import pytest

from medkd.device.node.spool import MOST_ATTEMPTS, Spool, SpoolFullError, key_of
from medkd.errors import ConfigError, StudyError

NOW = {"busy": (), "quiet_s": 0.0, "patience_s": 0.0}
KEPT = {"keep_s": 60.0, "keep_unanswered_s": 300.0, "remember_s": 600.0}
QUIET = {"busy": (), "quiet_s": 60.0, "patience_s": 600.0}


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", most_bytes=1000)


def names(folder):
    return sorted(path.name for path in folder.glob("*.dcm"))


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def answer(uid, content=b"answer"):
    return uid, lambda path: path.write_bytes(content)


def test_an_object_is_kept_as_it_came_under_names_that_tell_nothing(spool):
    spool.store("1.2.3", "1.2.3.4", b"content")
    (path,) = spool.folder.glob("receiving/*/*.dcm")
    assert path.read_bytes() == b"content"
    assert (path.parent.name, path.stem) == (key_of("1.2.3"), key_of("1.2.3.4"))
    assert spool.counts()["receiving"] == 1


def test_a_hostile_uid_leaves_no_folder(spool):
    spool.store("../../evil", "/etc/passwd", b"content")
    assert [path.name for path in spool.folder.parent.iterdir()] == ["spool"]
    assert len(list(spool.folder.glob("receiving/*/*.dcm"))) == 1


def test_a_series_is_complete_when_it_was_released_and_is_quiet(spool):
    spool.store("s", "a", b"")
    key = key_of("s")
    assert spool.claim(**QUIET) is None
    spool.release([key])
    assert spool.claim(**QUIET) is None
    age(spool.folder / "receiving" / key / ".released", 61)
    assert spool.claim(**(QUIET | {"busy": [key]})) is None
    assert spool.claim(**QUIET) == (spool.folder / "working" / key, True)
    assert spool.claim(**QUIET) is None


def test_an_object_that_follows_opens_a_released_series_again(spool):
    spool.store("s", "a", b"")
    spool.release([key_of("s")])
    age(spool.folder / "receiving" / key_of("s") / ".released", 61)
    spool.store("s", "b", b"")
    assert spool.claim(**QUIET) is None


def test_a_series_that_broke_off_is_taken_after_a_while_and_said_so(spool):
    spool.store("s", "a", b"")
    age(spool.folder / "receiving" / key_of("s"), 599)
    assert spool.claim(**QUIET) is None
    age(spool.folder / "receiving" / key_of("s"), 601)
    assert spool.claim(**QUIET) == (spool.folder / "working" / key_of("s"), False)


@pytest.mark.parametrize("part", ["answered", "failed"])
def test_late_objects_join_what_was_answered_or_failed(spool, part):
    spool.store("s", "a", b"1")
    working, _ = spool.claim(**NOW)
    if part == "answered":
        spool.finish(working, answer=answer("x"))
    else:
        spool.fail(working, "a slice is missing")
        told = json.loads((spool.folder / "failed" / key_of("s") / "reason.json").read_text())
        assert told == {"reason": "a slice is missing"}
    spool.store("s", "b", b"2")
    working, _ = spool.claim(**NOW)
    assert names(working) == sorted(f"{key_of(uid)}.dcm" for uid in "ab")
    assert spool.counts()[part] == 0


def test_what_a_killed_process_was_working_on_is_taken_up(spool):
    spool.store("s", "a", b"1")
    spool.store("t", "c", b"1")
    spool.release([key_of("s")])
    spool.claim(**NOW)
    spool.claim(**NOW)
    spool.store("s", "b", b"2")  # came while it was answered
    (spool.folder / "outbox" / ".x.dcm.partial").write_bytes(b"half")
    after = Spool(spool.folder, most_bytes=1000)
    with after.hold():
        assert after.counts() | {"receiving": 2, "working": 0, "outbox": 0} == after.counts()
        assert len(names(spool.folder / "receiving" / key_of("s"))) == 2
        assert list(spool.folder.glob("outbox/.*")) == []


def test_an_answer_that_was_given_is_not_given_again_but_sent_again(spool):
    spool.store("s", "a", b"1")
    working, _ = spool.claim(**NOW)
    assert not spool.knows("x")
    spool.finish(working, answer=answer("x", b"first"))
    assert spool.knows("x")
    (waiting,) = spool.outbox()
    spool.sent(waiting)
    assert spool.outbox() == []
    assert spool.knows("x")
    assert [path.read_bytes() for path in spool.outbox()] == [b"first"]


def test_an_answer_is_kept_from_when_it_was_sent_not_made(spool):
    spool.store("s", "a", b"1")
    working, _ = spool.claim(**NOW)
    spool.finish(working, answer=answer("x"))
    (waiting,) = spool.outbox()
    age(waiting, 61)  # the peer was away
    spool.sent(waiting)
    spool.purge(**KEPT)
    assert spool.knows("x")


def test_attempts_are_counted_over_restarts(spool):
    spool.store("s", "a", b"1")
    for expected in (1, 2, 3):
        working, _ = spool.claim(**NOW)
        assert spool.attempt(working) == expected
        spool = Spool(spool.folder, most_bytes=1000)
        with spool.hold():
            pass


def test_a_full_spool_takes_nothing_and_room_comes_back(spool):
    spool.store("s", "a", bytes(900))
    with pytest.raises(SpoolFullError):
        spool.store("s", "b", bytes(200))
    assert len(list(spool.folder.glob("receiving/*/*.dcm"))) == 1
    working, _ = spool.claim(**NOW)
    spool.finish(working, answer=None)
    spool.purge(**KEPT)
    assert spool.bytes == 900
    age(spool.folder / "answered" / key_of("s"), 61)
    spool.purge(**KEPT)
    spool.store("s", "b", bytes(200))
    assert spool.bytes == 200


@pytest.mark.parametrize("part", ["waiting", "failed"])
def test_what_has_no_answer_is_kept_for_longer(spool, part):
    spool.store("s", "a", b"1")
    working, _ = spool.claim(**NOW)
    spool.fail(working, "a slice is missing", part=part)
    for seconds, left in ((61, 1), (301, 0)):
        age(spool.folder / part / key_of("s"), seconds)
        spool.purge(**KEPT)
        assert spool.counts()[part] == left


def test_an_answer_that_was_set_aside_is_kept_for_longer(spool):
    working = spool.folder / "working" / key_of("s")
    working.mkdir()
    spool.finish(working, answer=answer("x"))
    (waiting,) = spool.outbox()
    spool.set_aside(waiting, "its file is damaged")
    for seconds, left in ((61, 1), (301, 0)):
        age(spool.folder / "failed" / key_of("x"), seconds)
        spool.purge(**KEPT)
        assert spool.counts()["failed"] == left


def test_what_has_no_answer_leaves_half_of_the_spool_to_what_comes(spool):
    for uid, seconds in (("old", 63), ("new", 61), ("last", 0)):
        spool.store(uid, "a", bytes(300))
        working, _ = spool.claim(**NOW)
        spool.fail(working, "a slice is missing")
        age(spool.folder / "failed" / key_of(uid), seconds)
    spool.purge(**KEPT)
    assert spool.counts()["failed"] == 1
    assert spool.bytes == 300


def test_what_a_series_had_is_remembered_after_it_was_removed(spool):
    for name in "ab":
        spool.store("s", name, b"1")
    working, _ = spool.claim(**NOW)
    assert spool.lacks(working) == 0
    spool.finish(working, answer=None)
    age(spool.folder / "answered" / key_of("s"), 61)
    spool.store("s", "c", b"3")
    spool.purge(**KEPT)
    assert spool.counts()["answered"] == 1  # what is arriving belongs to it
    working, _ = spool.claim(**NOW)
    spool.finish(working, answer=None)
    age(spool.folder / "answered" / key_of("s"), 61)
    spool.purge(**KEPT)
    spool.store("s", "d", b"4")
    working, _ = spool.claim(**NOW)
    assert spool.lacks(working) == 3
    spool.fail(working, "incomplete")
    for name in "abc":
        spool.store("s", name, b"1")
    working, _ = spool.claim(**NOW)
    assert spool.lacks(working) == 0
    age(spool.folder / "seen" / key_of("s"), 601)
    spool.purge(**KEPT)
    assert list((spool.folder / "seen").iterdir()) == []


def test_a_series_that_is_given_back_is_as_it_came(spool):
    spool.store("s", "a", b"1")
    spool.release([key_of("s")])
    for _ in range(MOST_ATTEMPTS + 1):
        working, was_released = spool.claim(**NOW)
        assert was_released
        assert spool.attempt(working) == 1
        spool.give_back(working)
    spool.store("s", "b", b"2")
    working, was_released = spool.claim(**NOW)
    assert not was_released
    spool.store("s", "c", b"3")  # comes while it is answered
    spool.give_back(working)
    assert len(names(spool.folder / "receiving" / key_of("s"))) == 3


def test_a_disk_that_was_full_is_tried_again_and_keeps_no_parts(spool, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("medkd.device.node.spool.PROBE_EVERY_S", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.store("s", "a", bytes(20))
        assert not spool.has_room()
        spool.store("s", "b", b"small")
        assert not spool.has_room()  # for what did not fit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.has_room()
    left = [path.name for path in spool.folder.rglob("*") if path.is_file()]
    assert left == [f"{key_of('b')}.dcm"]
    assert spool.bytes == 5


def test_a_second_process_is_kept_out(spool):
    other = Spool(spool.folder, most_bytes=1)
    with spool.hold(), pytest.raises(StudyError, match="another node works"), other.hold():
        pass


@pytest.mark.parametrize("name", ["file", "file/spool"])
def test_a_file_is_no_spool(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{name}: cannot be a spool .*choose another --spool"):
        Spool(tmp_path / name, most_bytes=1)
