import numpy as np
import pytest

from medkd.device.node.serve import BROKEN_OFF
from tests.device.node.test_serve import decoded, objects_of, send

# pynetdicom leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


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
