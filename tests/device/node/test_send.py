import os
import socket
import threading
from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import SegmentationStorage

from medkd.device.node.options import NodeOptions, Peer
from medkd.device.node.seal import sealed
from medkd.device.node.send import PeerError, Sender
from medkd.device.node.spool import Spool, key_of
from tests.device.node.test_serve import objects_of, send

# pynetdicom leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_answers_wait_for_a_peer_that_is_away_and_health_says_so(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    peer.stop()
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects_of(write_series(tmp_path / "one")))
    association.release()
    health = until(lambda: (h := node.health()) and h["status"] != "ok" and h)
    assert "the peer does not answer" in health["status"]
    assert health["spool"]["outbox"] == 1
    peer.start()
    until(lambda: peer.got)
    until(lambda: node.health()["status"] == "ok")


def test_an_answer_that_the_peer_has_already_is_not_sent_for_ever(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    peer.status = 0x0111  # duplicate SOP instance
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects_of(write_series(tmp_path / "one")))
    association.release()
    health = until(lambda: (h := node.health())["spool"]["sent"] and h)
    assert health["status"] == "ok"
    assert health["spool"]["outbox"] == 0


def test_a_bad_answer_is_set_aside_and_delays_no_other(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    peer.stop()
    node = start_node(release_3d)
    association = associate(node)
    for name in ("one", "two"):
        send(association, objects_of(write_series(tmp_path / name, series=name)))
    association.release()
    until(lambda: node.health()["spool"]["outbox"] == 2)
    bad, good = sorted((node.spool / "outbox").glob("*.dcm"))
    bad.write_bytes(bad.read_bytes()[:2000])
    good_stem, bad_stem = good.stem, bad.stem
    peer.start()
    ((uid, _),) = until(lambda: peer.got)
    assert key_of(uid) == good_stem
    until(lambda: node.health()["spool"]["outbox"] == 0)
    assert "is damaged" in (node.spool / "failed" / bad_stem / "reason.json").read_text()
    text = node.log.read_text()
    assert f"{bad_stem} is not sent: its file is damaged" in text
    assert "DOE" not in text


def test_an_answer_that_the_peer_does_not_want_waits_alone(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    peer.status = 0xA900  # does not match its class
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects_of(write_series(tmp_path / "one")))
    association.release()
    until(lambda: "A900" in node.health()["status"])
    peer.status = 0
    until(lambda: peer.got)
    assert until(lambda: node.health()["status"] == "ok")


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", most_bytes=2**20)


@pytest.fixture
def sender(spool, peer):
    return Sender(spool, NodeOptions(spool=spool.folder, peer=Peer("PACS", "127.0.0.1", peer.port)))


def put(spool, uid, *, changed):
    """Put an answer into the outbox."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, uid
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path = spool.folder / "outbox" / f"{key_of(uid)}.dcm"
    path.write_bytes(sealed(buffer.getvalue()))
    os.utime(path, (changed, changed))
    return path


def test_an_answer_at_which_the_peer_aborts_waits_alone(spool, sender, peer, until):
    bad, *_ = [put(spool, uid, changed=n) for n, uid in enumerate(["1.1", "1.2", "1.3"])]
    peer.aborts_at = {"1.1"}
    stop = threading.Event()
    sending = threading.Thread(target=sender.run, args=(stop,))
    sending.start()
    try:
        until(lambda: len(peer.got) == 2, seconds=10)
        until(lambda: spool.outbox() == [bad])
        assert sender.refused == "the peer did not take an answer (no status)"
        peer.aborts_at = set()
        until(lambda: not spool.outbox())
        until(lambda: sender.refused is None)
    finally:
        stop.set()
        sending.join()
    assert [uid for uid, _ in peer.got] == ["1.2", "1.3", "1.1"]


def test_a_peer_that_goes_away_midway_gets_all_when_it_is_back(spool, sender, peer, monkeypatch):
    answers = [put(spool, uid, changed=n) for n, uid in enumerate(["1.1", "1.2"])]
    peer.aborts_at, associate = {"1.1"}, sender._associate

    def associate_and_go():
        association = associate()
        peer.stop()
        return association

    monkeypatch.setattr(sender, "_associate", associate_and_go)
    with pytest.raises(PeerError, match="does not answer"):
        sender.send(answers)
    monkeypatch.undo()
    assert spool.outbox() == answers
    peer.aborts_at = set()
    peer.start()
    sender.send(answers)
    assert [uid for uid, _ in peer.got] == ["1.1", "1.2"]


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_a_peer_that_is_not_found_is_told_so(spool, sender, monkeypatch, error):
    def find(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", find)
    put(spool, "1.1", changed=0)
    reason = error.args[-1]
    with pytest.raises(PeerError, match=rf"cannot be reached at 127\.0\.0\.1 \({reason}\)"):
        sender.send(spool.outbox())


def test_an_error_that_nobody_foresaw_delays_answers_and_no_more(
    spool, sender, peer, monkeypatch, until
):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(sender, "_associate", fail)
    put(spool, "1.1", changed=0)
    stop = threading.Event()
    sending = threading.Thread(target=sender.run, args=(stop,))
    sending.start()
    try:
        until(lambda: sender.refused == "sending them failed (ZeroDivisionError)")
        monkeypatch.undo()
        until(lambda: peer.got)
        until(lambda: sender.refused is None)
    finally:
        stop.set()
        sending.join()
