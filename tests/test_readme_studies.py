"""The studies of the README are run as they stand there, on a few cases and for a few steps."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.test_readme import STUDIES, activated, checkout

SHORT = " ".join(
    f"--set {value}"
    for value in (
        "teacher.train.steps=2",
        "student.train.steps=2",
        "latency.queries=2",
        "evaluate.bootstrap=20",
        "evaluate.stress_cases=2",
    )
)


def thin_out(whole, part):
    """Lay out the three data sets with a few cases each."""
    for name, folders in {
        "hippocampus": ("imagesTr", "labelsTr"),
        "nuclei2d": ("images", "masks"),
        "pneumoniamnist": (),
    }.items():
        (part / name).mkdir(parents=True)
        for linked in folders:
            (part / name / linked).symlink_to(whole / name / linked)
    datalist = json.loads((whole / "hippocampus/dataset.json").read_text())
    datalist["training"] = datalist["training"][:24]
    (part / "hippocampus/dataset.json").write_text(json.dumps(datalist))
    shutil.copy(whole / "hippocampus/cases.csv", part / "hippocampus")
    header, *rows = (whole / "nuclei2d/cases.csv").read_text().splitlines()
    (part / "nuclei2d/cases.csv").write_text("\n".join([header, *rows[::12]]) + "\n")
    arrays = np.load(whole / "pneumoniamnist/pneumoniamnist.npz")
    few = {key: arrays[key][:40] for key in arrays}
    np.savez(part / "pneumoniamnist/pneumoniamnist.npz", **few)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("MEDKD_DATA" not in os.environ, reason="MEDKD_DATA is not set")
def test_the_three_studies_run_to_their_reports(tmp_path):
    folder = checkout(tmp_path)
    thin_out(Path(os.environ["MEDKD_DATA"]), folder / "data")
    export, *studies = STUDIES.splitlines()
    assert len(studies) == 3
    for line in studies:
        done = activated(f"{export}; {line} {SHORT}", folder)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    assert len(list(folder.glob("runs/*/report.html"))) == 3
