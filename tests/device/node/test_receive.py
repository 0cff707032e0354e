import json
import resource
import socket
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from pydicom import Dataset

from medkd.device.node.options import NodeOptions, Peer
from medkd.device.node.receive import Receiver
from medkd.device.node.serve import BROKEN_OFF
from medkd.device.node.spool import Spool
from tests.device.node.conftest import free_port
from tests.device.node.test_serve import decoded, objects_of, send

# pynetdicom leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def start_receiver(tmp_path):
    """Return a maker of listening receivers in this process, which returns their options."""
    receivers = []

    def make(**given):
        peer = Peer("PACS", "127.0.0.1", 104)
        options = NodeOptions(spool=tmp_path / "spool", peer=peer, port=free_port(), **given)
        spool = Spool(options.spool, most_bytes=options.spool_bytes)
        receivers.append(Receiver(spool, options, memory_bytes=2**30))
        receivers[-1].start()
        return options

    yield make
    for receiver in receivers:
        receiver.stop()


def test_no_more_associations_than_may_be(start_receiver, associate, until):
    options = start_receiver(associations=2)
    first, second = associate(options), associate(options)
    assert associate(options).is_rejected
    first.release()
    third = until(lambda: (a := associate(options)).is_established and a)
    second.release()
    third.release()


def test_a_pdu_that_is_too_large_is_not_read(start_receiver, associate):
    options = start_receiver()
    with socket.create_connection(("127.0.0.1", options.port), timeout=5) as caller:
        caller.sendall(struct.pack(">BBL", 1, 0, 2**20 + 1))
        assert caller.recv(1) == b""
    association = associate(options)  # others are served
    assert association.is_established
    association.release()


def test_who_may_call(release_3d, start_node, associate):
    node = start_node(release_3d, allow=["MODALITY"])
    assert associate(node, title="STRANGER").is_rejected
    assert associate(node, called="OTHER").is_rejected
    association = associate(node)
    assert association.is_established
    association.release()


def test_an_object_that_is_too_large_is_not_taken(
    release_3d, start_node, associate, mr_slice, until
):
    node = start_node(release_3d, object_mib=1)
    association = associate(node)
    large = mr_slice("large", 0, np.zeros((1200, 1200)))
    assert "Status" not in association.send_c_store(large)
    until(lambda: not association.is_established)
    assert node.health()["spool"]["receiving"] == 0
    association = associate(node)  # others are served
    send(association, [mr_slice("small", 0, np.zeros((12, 14)))])
    association.release()


def test_an_object_that_says_nothing_of_its_series_is_refused(
    release_3d, start_node, associate, mr_slice
):
    node = start_node(release_3d)
    association = associate(node)
    stray = mr_slice("stray", 0, np.zeros((4, 4)))
    del stray.SeriesInstanceUID
    assert association.send_c_store(stray).Status == 0xC000
    association.release()


def test_a_series_that_lacks_a_refused_object_is_not_answered_as_whole(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    images = sorted(
        objects_of(write_series(tmp_path / "one")), key=lambda each: each.InstanceNumber
    )
    size = max(path.stat().st_size for path in (tmp_path / "one").iterdir())
    node = start_node(release_3d, spool_gib=6.5 * size / 2**30, patience_s=2)
    association = associate(node)
    status = [association.send_c_store(each).Status for each in images]
    association.release()
    assert status[0] == 0
    assert status[-1] == 0xA700
    ((_, content),) = until(lambda: peer.got)
    assert decoded(content).SeriesDescription.endswith(BROKEN_OFF)


@pytest.mark.parametrize("how", ["released, aborted", "aborted, released", "released, killed"])
def test_what_one_of_two_associations_breaks_off_is_whole_once_a_later_one_is_released(
    release_3d, start_node, associate, peer, mr_slice, until, how
):
    pixels = np.random.default_rng(0).integers(0, 120, (9, 12, 14))
    images = [mr_slice("one", number, plane) for number, plane in enumerate(pixels)]
    node = start_node(release_3d, patience_s=2)
    one, other = associate(node), associate(node)
    send(one, images[:2])
    send(other, images[2:7])
    for each in how.split(", "):
        if each == "released":
            one.release()
            until(lambda: "received" in node.log.read_text())
        elif each == "aborted":
            other.abort()
            until(lambda: "broke off" in node.log.read_text())
        else:
            node.kill()
            other.abort()
            node.start()
    ((_, content),) = until(lambda: peer.got)
    assert decoded(content).SeriesDescription.endswith(BROKEN_OFF)
    later = associate(node)
    send(later, images[7:])
    later.release()
    _, (_, content) = until(lambda: len(peer.got) == 2 and peer.got)
    said = decoded(content)
    assert not said.SeriesDescription.endswith(BROKEN_OFF)
    assert len(said.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(images)


def test_a_series_that_is_sent_again_while_another_sends_of_it_is_whole_at_the_end(
    release_3d, start_node, associate, peer, mr_slice, until
):
    pixels = np.random.default_rng(0).integers(0, 120, (9, 12, 14))
    images = [mr_slice("one", number, plane) for number, plane in enumerate(pixels)]
    node = start_node(release_3d, patience_s=600)
    long, broken = associate(node), associate(node)
    send(long, images[5:])
    send(broken, images[:3])
    broken.abort()
    until(lambda: "broke off" in node.log.read_text())
    again = associate(node)
    send(again, images[:5])
    again.release()
    long.release()
    ((_, content),) = until(lambda: peer.got)
    assert not decoded(content).SeriesDescription.endswith(BROKEN_OFF)


def test_a_crowded_object_is_refused_and_others_are_taken(
    release_3d, changed, start_node, associate, mr_slice
):
    options = json.loads((release_3d / "manifest.json").read_text())["preprocess"]
    options["reading"]["memory_gib"] = 1 / 64
    node = start_node(changed(release_3d, preprocess=options))
    association = associate(node)
    crowded = mr_slice("crowded", 0, np.zeros((4, 4)))
    crowded.ReferencedStudySequence = [Dataset() for _ in range(40_000)]
    assert association.send_c_store(crowded).Status == 0xC000
    send(association, [mr_slice("sound", 0, np.zeros((4, 4)))])
    association.release()
    assert node.health()["spool"]["receiving"] == 1


def test_a_full_disk_takes_nothing_says_so_and_is_used_again_when_it_has_room(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    objects = objects_of(write_series(tmp_path / "one"))
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects[:4])
    with files_up_to(100, node):
        assert association.send_c_store(objects[4]).Status == 0xA700
        assert "the disk is full" in node.health()["status"]
    send(association, objects[4:])
    association.release()
    (got,) = until(lambda: peer.got)
    assert not decoded(got[1]).SeriesDescription.endswith(BROKEN_OFF)
    assert until(lambda: node.health()["status"] == "ok")


def test_what_was_acknowledged_is_answered_once_a_full_disk_has_room_again(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects_of(write_series(tmp_path / "one")))
    association.release()
    with files_up_to(1000, node):
        until(lambda: "the disk is full" in node.health()["status"])
        counts = node.health()["spool"]
        assert (counts["failed"], counts["outbox"], len(peer.got)) == (0, 0, 0)
    until(lambda: peer.got)
    assert until(lambda: node.health()["status"] == "ok")


@contextmanager
def files_up_to(size, node):
    """Let a node write no file of more bytes, as on a disk that is full."""
    limit, pid = resource.RLIMIT_FSIZE, node.process.pid
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, before)
