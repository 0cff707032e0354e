import json

import pytest
import yaml

from medkd.config import load
from medkd.device.manifest import read_manifest
from medkd.errors import ConfigError
from medkd.export import sizing
from medkd.export.sizing import candidates, size_student
from medkd.models.zoo import build_for
from medkd.options import NamedOptions
from medkd.results import CURVE, Latency, Percentiles
from medkd.types import Runtime


@pytest.fixture
def config(make_config):
    return load(make_config(dims=2))


def latency(ms):
    spread = Percentiles(p50=ms - 1, p90=ms, p99=ms + 1)
    return Latency(
        queries=1,
        threads=1,
        file_to_file_ms=spread,
        network_ms=spread,
        stages_ms={},
        cold_start_ms=1,
        peak_memory_mib=1,
        processor="",
        load_average=0,
    )


def test_candidates_grow_in_blocks_and_hold_the_network_as_given(config):
    given = NamedOptions(name="plain_unet", channels=[8, 16, 36], first_stride=1)
    offered = candidates(given, config)
    widths = [model.options["channels"] for model in offered]
    assert widths == sorted(widths)
    assert given in offered
    assert all(model.options["first_stride"] == 1 for model in offered)
    assert all(w % 8 == 0 for model in offered if model != given for w in model.options["channels"])
    assert len(offered) == len({str(model) for model in offered})


def test_a_width_that_is_left_to_its_default_grows_too(config):
    widths = [m.options["channels"] for m in candidates(NamedOptions(name="plain_unet"), config)]
    assert [8, 16, 32, 64] in widths
    assert [16, 32, 64, 128] in widths


def test_an_efficientnet_has_variants(make_config):
    config = load(make_config(dims=2, task="classification"))
    offered = candidates(NamedOptions(name="efficientnet"), config)
    assert offered[0].options == {"variant": "efficientnet-b0"}


def test_heads_of_a_transformer_stay_whole(make_config):
    config = load(make_config(dims=2, task="classification"))
    given = NamedOptions(name="vit", image_size=[16, 16], patch_size=8, width=320, layers=1)
    offered = candidates(given, config)
    assert all(model.options["width"] % 64 == 0 for model in offered)
    for model in offered:
        build_for(config, model)


@pytest.mark.slow
def test_the_widest_within_the_budget_is_chosen(make_study, monkeypatch):
    study, cohort = make_study("student.budget={latency_ms: 10, threads: 1}", dims=2)
    times = iter([4.0, 9.0, 11.0, 12.0])
    offered = []

    def measure(release, *_, **__):
        offered.append(read_manifest(release).runtimes)
        return latency(next(times))

    monkeypatch.setattr(sizing, "measure_latency", measure)
    sized = size_student(study, cohort)
    assert set(offered) == {(Runtime.ONNXRUNTIME, Runtime.OPENVINO)}  # as its release will have
    expected = candidates(study.config.student.model, study.config)[1]
    assert sized.config.student.model == expected
    written = yaml.safe_load((study.folder / "config.yaml").read_text())
    assert written["student"]["model"] == expected.model_dump()
    again = size_student(study, cohort)  # measured once: the clock has run out
    assert again.config.student.model == expected


def test_too_slow_at_any_width_says_how_slow(make_study, monkeypatch):
    study, cohort = make_study("student.budget={latency_ms: 3}", dims=2)
    monkeypatch.setattr(sizing, "measure_latency", lambda *_, **__: latency(20.0))
    with pytest.raises(ConfigError, match=r"narrowest plain_unet takes 20\.0 ms on 2 threads"):
        size_student(study, cohort)
    assert not study.path("sizing").exists()


def test_without_a_budget_the_study_stays_as_it_is(make_study):
    study, cohort = make_study(dims=2)
    assert size_student(study, cohort) is study


@pytest.mark.slow
def test_the_curve_is_measured_in_the_runtime_that_will_serve(make_study, monkeypatch):
    monkeypatch.setattr(sizing, "FACTORS", (1.0, 4.0))
    study, cohort = make_study("student.budget={latency_ms: 10000, threads: 1}", dims=2)
    size_student(study, cohort)
    curve = json.loads((study.path("sizing") / CURVE).read_text())
    counts = [point["parameters"] for point in curve]
    assert counts == sorted(counts)
    assert [point["chosen"] for point in curve] == [False] * (len(curve) - 1) + [True]
    assert all(0 < point["network_ms"] < point["latency_p90_ms"] for point in curve)
