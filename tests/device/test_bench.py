import io
import json

import pytest
from rich.console import Console

from medkd.device.bench import Accuracy, Bench, reports_near, tables
from medkd.results import Latency, Percentiles


def latency(**changes):
    values = {
        "queries": 64,
        "threads": 2,
        "file_to_file_ms": Percentiles(p50=10, p90=12.3, p99=20),
        "network_ms": Percentiles(p50=4, p90=5, p99=6),
        "stages_ms": {"read": 3.25, "network": 4, "write": 2},
        "cold_start_ms": 512.0,
        "cold_stages_ms": {"start": 500.5, "read": 4, "network": 6, "write": 2},
        "p90_bound_ms": 13.7,
        "peak_memory_mib": 111.0,
        "size_mib": 0.4,
        "processor": "a processor",
        "processor_flags": ("avx2",),
        "load_average": 1.5,
    }
    return Latency(**(values | changes))


def shown(measured, queries=64):
    text = io.StringIO()
    for table in tables(measured, queries=queries):
        Console(file=text, width=200).print(table)
    return text.getvalue()


def test_the_tables_hold_every_figure_and_what_it_was_measured_on():
    accuracy = Accuracy(figure="dice", value=0.885, reference=0.889)
    text = shown([Bench(release="a", latency=latency(), accuracy=accuracy)])
    for figure in ("12.3", "13.7", "512", "111", "0.4", "500.5", "3.2", "dice 0.885, 99 %"):
        assert figure in text
    assert all(said in text for said in ("2 threads", "a processor (avx2)", "load 1.5"))
    assert "MLPerf asks" not in text


@pytest.mark.parametrize(
    ("releases", "names"),
    [
        (["runs/x/releases/teacher", "runs/x/releases/student"], ["teacher", "student"]),
        (["a/releases/x", "b/releases/x"], ["a/releases/x", "b/releases/x"]),
        (["runs/x/releases/student"], ["student"]),
        (["runs/x/[student]", "runs/x/[/student]"], ["[student]", "[/student]"]),
    ],
)
def test_releases_are_told_apart_by_as_little_as_it_takes(releases, names):
    rows = shown([Bench(release=each, latency=latency()) for each in releases]).splitlines()
    told = [row.split()[1] for row in rows if row.startswith("│")]
    assert told == names + [name for name in names for _ in ("warm", "cold")]


def test_too_few_queries_are_said():
    text = shown([Bench(release="a", latency=latency(queries=9, p90_bound_ms=None))], queries=9)
    assert "too few" in text
    assert "MLPerf asks for at least 64" in text


@pytest.mark.parametrize(
    ("value", "of_reference"), [(0.8995, "99.9 %"), (0.891, "99 %"), (0.88, "below 99 %")]
)
def test_accuracy_classes_are_shares_of_the_reference(value, of_reference):
    accuracy = Accuracy(figure="dice", value=value, reference=0.9)
    assert accuracy.of_reference == of_reference


def test_a_study_without_a_report_or_with_a_damaged_one_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reports_near([tmp_path / "releases" / "student"]) == []
    (tmp_path / "report.json").write_text("{}")
    assert reports_near([tmp_path / "releases" / "student"]) == []


def test_what_was_measured_comes_back_from_json():
    bench = Bench(release="a", latency=latency())
    assert Bench.model_validate(json.loads(bench.model_dump_json())) == bench
