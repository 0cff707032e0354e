import pytest

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
