import itertools
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import highdicom  # noqa: TID253
import numpy as np
import pydicom
import pytest

from medkd.data.dicom.volume import read
from medkd.device import load
from medkd.device.dicom.source import Source
from medkd.device.inputs import find_inputs
from medkd.device.node.options import NodeOptions, Peer
from medkd.device.node.serve import BROKEN_OFF, serve
from medkd.device.node.spool import key_of
from medkd.errors import ReleaseError
from medkd.types import Task

# pynetdicom leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
PATIENT = ("DOE", "JANE", "MRN0042", "19560304", "ROE")
VALUES = np.array([0, 7, 255])
NAMES = ("t1", "flair")


def objects_of(folder):
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def send(association, objects):
    assert association.is_established
    for each in objects:
        assert association.send_c_store(each).Status == 0


def answer_uid(images, release, *, is_whole=True):
    """Return the UID that a release's answer for images has."""
    manifest = load(release).manifest
    kind = "segmentation" if manifest.task is Task.SEGMENTATION else "report"
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.dcm" for number, _ in enumerate(images)]
        for file, image in zip(files, images, strict=True):
            image.save_as(file, enforce_file_format=True)
        place = files[0] if len(files) == 1 else Path(folder)
        source = Source.read(files, read(place, manifest.preprocess.reading))
    return replace(source, is_whole=is_whole).uid(manifest, kind)


def test_a_series_becomes_a_segmentation_at_the_peer(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folder = write_series(tmp_path / "one")
    node = start_node(release_3d)
    association = associate(node)
    assert association.send_c_echo().Status == 0
    send(association, objects_of(folder))
    association.release()
    ((uid, content),) = until(lambda: peer.got)
    expected = load(release_3d).answer(read(folder)).mask
    assert uid == answer_uid(objects_of(folder), release_3d)
    seg = highdicom.seg.Segmentation.from_dataset(decoded(content))
    np.testing.assert_array_equal(VALUES[seg.get_volume(combine_segments=True).array], expected)
    health = until(lambda: node.health() if node.health()["spool"]["sent"] else None)
    assert health["status"] == "ok"
    assert health["answered"] == 1
    assert node.stop() == 0


def test_a_classified_image_becomes_a_report_at_the_peer(
    release_slices, start_node, associate, peer, mr_slice, tmp_path, until
):
    image = mr_slice("one", 0, np.full((10, 14), 50000, np.uint16))
    node = start_node(release_slices)
    association = associate(node)
    send(association, [image])
    association.release()
    ((uid, content),) = until(lambda: peer.got)
    manifest = load(release_slices).manifest
    assert uid == answer_uid([image], release_slices)
    image.save_as(tmp_path / "0.dcm")
    expected = load(release_slices).answer(read(tmp_path / "0.dcm", manifest.preprocess.reading))
    report = highdicom.sr.ComprehensiveSR.from_dataset(decoded(content))
    (group,) = report.content.get_image_measurement_groups()
    assert [group.finding_type.meaning] == list(expected.confidence) == ["bright"]
    values = [measured.value for measured in group.get_measurements()]
    np.testing.assert_allclose(values, expected.probabilities, rtol=1e-6)


def decoded(content):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = pydicom.dcmread(BytesIO(content), force=True)
    dataset.file_meta = meta
    return dataset


def test_files_are_the_owners_alone_and_logs_name_no_patient(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folder = write_series(tmp_path / "one")
    node = start_node(release_3d)
    association = associate(node)
    send(association, objects_of(folder))
    association.release()
    broken = objects_of(write_series(tmp_path / "two", series="two"))[::2]
    del broken[1]  # a slice is missing: this one fails
    association = associate(node)
    send(association, broken)
    association.release()
    health = until(lambda: (h := node.health())["failed"] and h["spool"]["sent"] and h)
    assert (health["status"], health["failed"], health["spool"]["failed"]) == ("ok", 1, 1)
    for path in [node.spool, *node.spool.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    uids = {str(each.SOPInstanceUID) for each in objects_of(folder)}
    for path in node.spool.rglob("*"):
        assert not any(name in path.as_posix() for name in (*PATIENT, *uids))
    text = node.log.read_text()
    assert key_of(broken[0].SeriesInstanceUID) in text
    assert not any(name in text for name in (*PATIENT, *uids))


def test_what_was_mended_is_told_to_the_peer(
    release_3d, changed, start_node, associate, peer, mr_slice, until
):
    pixels = np.random.default_rng(0).integers(0, 120, (9, 12, 14))
    images = [mr_slice("one", number, plane) for number, plane in enumerate(pixels) if number != 4]
    options = load(release_3d).manifest.preprocess.model_dump(mode="json")
    options["reading"]["resample_missing"] = 1
    node = start_node(changed(release_3d, preprocess=options))
    association = associate(node)
    send(association, images)
    association.release()
    ((_, content),) = until(lambda: peer.got)
    said = "mended: resample_missing: 1 slices, 10.00 mm from the first"
    assert decoded(content).ImageComments == said


def test_late_objects_join_the_series_and_all_is_answered_anew(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folder = write_series(tmp_path / "one")
    images = sorted(objects_of(folder), key=lambda each: each.InstanceNumber)
    node = start_node(release_3d)
    for part in (images[:5], images[5:]):
        before = len(peer.got)
        association = associate(node)
        send(association, part)
        association.release()
        until(lambda before=before: len(peer.got) > before)
    expected = [answer_uid(part, release_3d) for part in (images[:5], images)]
    assert [uid for uid, _ in peer.got] == expected


def test_the_same_series_sent_again_gets_the_same_answer_byte_for_byte(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folder = write_series(tmp_path / "one")
    node = start_node(release_3d)
    for times in (1, 2):
        association = associate(node)
        send(association, objects_of(folder))
        association.release()
        until(lambda times=times: len(peer.got) == times)
    assert peer.got[0] == peer.got[1]


def test_other_pixels_under_the_same_uids_are_answered_anew_under_another(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folders = [write_series(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    first, second = map(objects_of, folders)
    assert [each.SOPInstanceUID for each in first] == [each.SOPInstanceUID for each in second]
    node = start_node(release_3d)
    for times, images in enumerate((first, second, first), start=1):
        association = associate(node)
        send(association, images)
        association.release()
        until(lambda times=times: len(peer.got) == times)
    assert peer.got[0] == peer.got[2]
    uid, content = peer.got[1]
    assert uid == answer_uid(second, release_3d) != peer.got[0][0]
    seg = highdicom.seg.Segmentation.from_dataset(decoded(content))
    expected = load(release_3d).answer(read(folders[1])).mask
    np.testing.assert_array_equal(VALUES[seg.get_volume(combine_segments=True).array], expected)


def test_what_broke_off_and_comes_again_as_a_whole_is_answered_as_that(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    images = objects_of(write_series(tmp_path / "one"))
    node = start_node(release_3d, patience_s=2)
    expected = [answer_uid(images, release_3d, is_whole=whole) for whole in (False, True, True)]
    for number, end in enumerate(("abort", "release", "abort"), start=1):
        association = associate(node)
        send(association, images)
        getattr(association, end)()
        until(lambda number=number: len(peer.got) == number)
    assert [uid for uid, _ in peer.got] == expected
    said = [decoded(content).SeriesDescription.endswith(BROKEN_OFF) for _, content in peer.got]
    assert said == [True, False, False]


def test_late_images_of_a_series_that_was_removed_get_no_answer_of_their_own(
    release_3d, start_node, associate, peer, write_series, tmp_path, until
):
    folder = write_series(tmp_path / "one")
    images = sorted(objects_of(folder), key=lambda each: each.InstanceNumber)
    node = start_node(release_3d)

    def deliver(objects):
        association = associate(node)
        send(association, objects)
        association.release()

    deliver(images[:7])
    until(lambda: node.health()["spool"]["sent"])
    for part in ("answered", "sent"):  # as after ``keep_s``
        for path in (node.spool / part).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    deliver(images[7:])
    until(lambda: node.health()["failed"])
    (reason,) = (node.spool / "failed").glob("*/reason.json")
    assert "7 images of this series came before and have been removed" in reason.read_text()
    assert len(peer.got) == 1
    deliver(images[:7])  # now all of them are there
    until(lambda: len(peer.got) == 2)
    assert peer.got[1][0] == answer_uid(images, release_3d)


def test_a_second_node_in_the_same_spool_is_refused(release_3d, start_node, peer):
    node = start_node(release_3d)
    command = [sys.executable, "-c", "from medkd.cli import main; main()", "serve", str(release_3d)]
    command += ["--peer", f"PACS@127.0.0.1:{peer.port}", "--spool", str(node.spool)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another node works in this folder" in done.stderr


def test_a_study_is_answered_once_its_modalities_are_there(
    release_two, start_node, associate, peer, write_series, tmp_path, until
):
    series = {}
    for seed, name in enumerate(["t1", "flair"]):
        series[name] = objects_of(write_series(tmp_path / "sent" / name, series=name, seed=seed))
        for each in series[name]:
            each.SeriesDescription, each.FrameOfReferenceUID = f"ax {name}", "1.2.3"
    node = start_node(release_two)

    def deliver(objects):
        association = associate(node)
        send(association, objects)
        association.release()

    deliver(series["flair"])
    health = until(lambda: (h := node.health())["spool"]["waiting"] and h)
    assert health["status"] == "1 studies lack a modality"
    with urlopen(f"http://127.0.0.1:{node.health_port}/health", timeout=60) as told:
        assert told.status == 200
    assert "waits for a series of t1" in node.log.read_text()
    assert (health["failed"], peer.got) == (0, [])
    deliver(series["t1"])
    ((uid, content),) = until(lambda: peer.got)
    for name, objects in series.items():
        for number, each in enumerate(objects):
            each.save_as(tmp_path / "sent" / name / f"{number:03d}.dcm")
    reading = load(release_two).manifest.preprocess.reading
    (study,) = find_inputs([tmp_path / "sent"], reading, NAMES)
    source = Source.read(study.files, study.read(reading), further=study.further)
    assert uid == source.uid(load(release_two).manifest, "segmentation")
    referred = decoded(content).ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referred == series["t1"][0].SeriesInstanceUID
    assert until(lambda: node.health()["status"] == "ok")


def test_a_release_that_does_not_tell_its_modalities_apart_is_refused(
    release_3d, changed, tmp_path
):
    options = load(release_3d).manifest.preprocess.model_dump(mode="json")
    options |= {"channels": 2, "modalities": ["t1", "flair"]}
    node = NodeOptions(peer=Peer.parse("PACS@127.0.0.1:104"), spool=tmp_path / "spool")
    with pytest.raises(ReleaseError, match=r"does not say which series is which; .*series_of"):
        serve(changed(release_3d, preprocess=options), node)


@pytest.fixture
def ten_series(tmp_path, write_series):
    return [
        write_series(tmp_path / f"s{n}", series=n, shape=(20, 12, 14), seed=n) for n in range(10)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_200_objects_survive_kills_and_none_is_answered_twice_under_another_uid(
    release_3d, start_node, associate, peer, ten_series, seed, until
):
    """Ten series of 20 objects; the node is killed three times while they are sent and answered."""
    rng = np.random.default_rng(seed)
    expected = {answer_uid(objects_of(folder), release_3d) for folder in ten_series}
    node = start_node(release_3d, patience_s=8)
    # not after the last of a series: one that was never released may lack more, and says so
    kills = set(rng.choice([n for n in range(20, 190) if n % 20], size=2).tolist())
    sent = itertools.count(1)
    for folder in ten_series:
        waiting = objects_of(folder)
        association = associate(node)
        while waiting:
            if not association.is_established:
                association = until(lambda: (a := associate(node)).is_established and a)
            # a sender keeps what was not acknowledged, and sends it again
            if association.send_c_store(waiting[0]).get("Status") == 0:
                waiting.pop(0)
                if next(sent) in kills:
                    node.kill()
                    association.abort()
                    node.start()
        association.release()
    until(lambda: len(peer.got) >= 3, seconds=120)
    node.kill()  # while it answers and sends
    node.start()
    until(lambda: {uid for uid, _ in peer.got} >= expected, seconds=120)
    until(lambda: node.health()["spool"]["outbox"] == 0)
    counts = node.health()["spool"]
    assert (counts["receiving"], counts["working"], counts["failed"]) == (0, 0, 0)
    full = [(uid, content) for uid, content in peer.got if uid in expected]
    assert {uid for uid, _ in full} == expected
    assert len({content for _, content in full}) == len(expected)  # what came twice is the same
