import pytest

from medkd.device.node.spool import key_of
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
