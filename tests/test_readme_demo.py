"""The demo of the README is run as it stands there."""

import re

import pytest

from tests.test_readme import DEMO, checkout, shell


@pytest.mark.slow
def test_the_demo_ends_with_the_table_the_report_and_the_way_to_mlflow(tmp_path):
    folder = checkout(tmp_path)
    done = shell(DEMO, folder)
    assert done.returncode == 0, done.stderr
    for row in ("teacher", "student", "baseline"):
        assert re.search(rf"│ {row} +│ +0\.\d{{3}}", done.stdout), done.stdout
    assert re.search(r"^report +runs/phantom_3d/report\.html$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^MLflow +(\.venv/bin/)?medkd ui$", done.stdout, flags=re.MULTILINE)
    assert (folder / "runs/phantom_3d/report.html").is_file()
