"""MLflow's pages in a real browser, over a real server and the journal of a whole study.

``MEDKD_SCREENSHOTS=FOLDER pytest tests/track/test_ui.py`` writes what each test sees as a PNG.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePath

import pytest
from PIL import Image

from medkd.report.pdf import BROWSERS
from medkd.results import CaseScores
from medkd.study import write_atomic
from medkd.track.journal import Journal
from medkd.track.mlflow import sync, views
from medkd.track.pages import NOTE_TAG, plain, table_tag
from medkd.track.story import BEGINNINGS, cases_table

BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

DICE = {"baseline": 0.71, "teacher": 0.93, "student": 0.88}
HOSTILE = (
    "<img src=http://evil.invalid/a.png onerror=alert(1)><script>alert(2)</script>"
    "{{7*7}} ![a](http://evil.invalid/b.png)\n\x1b[31m=cmd()" + "x" * 9000
)
ROOT = Path(__file__).parents[2]
SMALL = (
    *("data.phantoms.shape=[28,28,16]", "data.phantoms.cases=32", "latency.queries=4"),
    *("preprocess.window=[32,32,16]", "teacher.model.filters=[8,16,32]", "distill.warmup_steps=0"),
    *("teacher.train.steps=10", "teacher.train.validate_every=5"),
    *("student.train.steps=10", "student.train.validate_every=5"),
    *("evaluate.stress_cases=0", "export.variants=[onnx]"),
)
FIRST_SECTIONS = ("test split", "final")  # of charts; then MLflow's own of each group of metrics
LONGEST_MS = 180_000  # that a page may take on a busy machine
LOOPBACK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def tell(folder):
    """Journal a study as a whole run of it does, with hostile text wherever text may come."""
    journal = Journal(folder / "journal.jsonl", description=f"# Demo\n\n{plain(HOSTILE)}")
    journal.run("study").tags({"medkd.verdict": "NOT READY", "site": HOSTILE})
    for number, (role, dice) in enumerate(DICE.items()):
        run = journal.run(role)
        run.tags({NOTE_TAG: f"{BEGINNINGS[role]}\n\n{plain(HOSTILE)}"} | table_tag("cases.json"))
        run.params({"model": "plain_unet", "learning_rate": 0.01 * (number + 1), "note": HOSTILE})
        for step in (3, 6):
            run.metrics({"validation/dice": dice * step / 6, "train/loss": 1 / step}, step=step)
            path = folder / "previews" / role / f"{step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (128, 64), (40 * step, 90, 90)).save(path)
            run.image(PurePath(path.relative_to(folder)), name="validation", step=step)
        cases = [CaseScores(case=f"case-{i}", patient="p", figures={"dice": dice}) for i in "ab"]
        overlay = folder / "overlays" / role / "worst-1.png"
        overlay.parent.mkdir(parents=True)
        Image.new("RGB", (96, 48), (200, 90, 90)).save(overlay)
        run.artifact(PurePath(overlay.relative_to(folder)), folder="overlays")
        (folder / "cases" / role).mkdir(parents=True)
        write_atomic(folder / "cases" / role / "cases.json", cases_table(cases))
        run.artifact(PurePath("cases", role, "cases.json"))
        run.dataset(HOSTILE[:400], digest="d", context="test")
        tags = {"medkd.verdict": "NOT READY", "text": HOSTILE}
        figures = {"final/dice": dice, f"final/dice/{HOSTILE}": dice}
        run.release(f"demo-{role}", digest=role * 8, tags=tags, description="", figures=figures)
        run.status("FINISHED")


@pytest.fixture(scope="module")
def site(serve, tmp_path_factory):
    """Return a server that holds the study, the address of its view, and its runs by role."""
    folder = tmp_path_factory.mktemp("ui") / "demo"
    server = serve()
    tell(folder)
    assert sync(folder, uri=server.uri).pending == 0
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("medkd/demo").experiment_id
    runs = {
        run.data.tags["medkd.role"]: run.info.run_id for run in client.search_runs([experiment])
    }
    return server.uri, views(server.uri)["medkd/demo"], experiment, runs


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=BROWSER, args=[LOOPBACK, *sandbox])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, site, request):
    """A tab that allows loopback alone; afterwards it has asked for nothing else, nor run text."""
    tab = browser.new_page(viewport={"width": 1500, "height": 950})
    asked, dialogs = [], []
    tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.set_default_timeout(LONGEST_MS)
    try:
        yield tab
        if folder := os.environ.get("MEDKD_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            tab.screenshot(path=Path(folder) / f"{request.node.name}.png")
    finally:
        tab.close()  # or its charts keep drawing
    assert dialogs == []
    assert [url for url in asked if not url.startswith((site[0], "data:", "blob:"))] == []


def test_runs_are_ranked_by_final_dice(page, site):
    uri, view, *_ = site
    page.goto(f"{uri}/{view}")
    page.get_by_text("demo teacher").first.wait_for()
    page.get_by_text("demo baseline").first.wait_for()
    shown = {role: page.get_by_text(f"demo {role}").first.bounding_box()["y"] for role in DICE}
    assert sorted(shown, key=shown.get) == ["teacher", "student", "baseline"]


def test_a_run_tells_what_it_is(page, site):
    uri, _, experiment, runs = site
    page.goto(f"{uri}/#/experiments/{experiment}/runs/{runs['student']}")
    page.get_by_text("trained on labels and on what the teacher believes").first.wait_for()
    assert page.locator("img[src*=evil]").count() == 0


def test_two_runs_are_compared(page, site):
    uri, _, experiment, runs = site
    both = f'["{runs["teacher"]}","{runs["student"]}"]'
    page.goto(f'{uri}/#/compare-runs?runs={both}&experiments=["{experiment}"]')
    page.get_by_text(re.compile("Comparing 2 Runs")).first.wait_for()
    page.get_by_text("final/dice").first.wait_for()


def test_the_cases_are_a_table(page, site):
    uri, _, experiment, runs = site
    page.goto(f"{uri}/#/experiments/{experiment}/runs/{runs['student']}/artifacts/cases.json")
    page.get_by_text("case-a").first.wait_for()


def test_an_overlay_is_visible(page, site):
    uri, _, experiment, runs = site
    run = f"{uri}/#/experiments/{experiment}/runs/{runs['student']}"
    page.goto(f"{run}/artifacts/overlays/worst-1.png")
    picture = page.locator("img[src^='blob:'], img[src*='worst-1']").first
    picture.wait_for()
    assert picture.evaluate("img => [img.naturalWidth, img.naturalHeight]") == [96, 48]


@pytest.fixture(scope="module")
def whole(site, tmp_path_factory):
    """Two phantom studies of one experiment, run from end to end; its id and the runs by name."""
    uri, root = site[0], tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        values = [*SMALL, f"study.root={root}", f"study.seed={seed}", f"study.name=p{seed}"]
        values += ["study.experiment=phantoms", f"student.train.learning_rate={0.006 / (seed + 1)}"]
        sets = [word for value in values for word in ("--set", value)]
        command = [sys.executable, "pipelines/segmentation.py", "configs/phantom_3d.yaml", *sets]
        told = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=told, check=True, capture_output=True)
        assert sync(root / f"p{seed}", uri=uri).pending == 0
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("medkd/phantoms").experiment_id
    runs = client.search_runs([experiment])
    return experiment, {run.info.run_name: run.info.run_id for run in runs}


def test_the_first_charts_are_of_the_test_split(page, site, whole):
    page.goto(f"{site[0]}/{views(site[0])['medkd/phantoms']}&compareRunsMode=CHART")
    first, second = (page.get_by_text(re.compile(rf"^{name}$")).first for name in FIRST_SECTIONS)
    first.wait_for()
    second.wait_for()
    assert first.bounding_box()["y"] < second.bounding_box()["y"]


def test_students_are_compared_by_what_was_changed(page, site, whole):
    experiment, runs = whole
    both = f'["{runs["p0 student"]}","{runs["p1 student"]}"]'
    page.goto(f'{site[0]}/#/compare-runs?runs={both}&experiments=["{experiment}"]')
    page.get_by_text("Parallel Coordinates Plot").first.wait_for()
    chosen = page.locator(".du-bois-light-select-selection-item-content")
    chosen.first.wait_for()
    assert {"learning_rate", "seed"} <= set(chosen.all_inner_texts())
    page.get_by_text("learning_rate").first.wait_for()


def test_every_role_has_its_model(page, site, whole):
    experiment, _ = whole
    page.goto(f"{site[0]}/#/experiments/{experiment}/models?workflowType=machine_learning")
    for role in DICE:
        models = page.get_by_text(f"phantoms-{role}", exact=True)
        models.nth(1).wait_for()
        assert models.count() == 2, "one a study"
