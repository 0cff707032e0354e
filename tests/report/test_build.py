import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from medkd.errors import StudyError
from medkd.report import build, checklist
from medkd.report.build import draw, write_page
from medkd.results import Verdict
from medkd.statement import QUESTIONS
from medkd.types import Role

EVIL = " ".join(
    (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'><svg/onload=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "$\\frac{broken",
        "海馬",
    )
)
TASKS = pytest.mark.parametrize(
    "report", ["segmentation", "classification", "findings"], indirect=True
)
SCALES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "s": 1e3, "%": 0.01}


class Page(HTMLParser):
    """The tags with their attributes, and the cells of every table by its caption."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self._caption, self._place = [], {}, "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._caption = ""
        if tag in ("caption", "td", "th"):
            self._place = tag
        if tag in ("td", "th"):
            self.tables.setdefault(self._caption, []).append("")

    def handle_endtag(self, tag):
        if tag == self._place:
            self._place = ""

    def handle_data(self, data):
        if self._place == "caption":
            self._caption += data
        elif self._place:
            self.tables[self._caption][-1] += data

    def cells(self, caption):
        return [c for name, cells in self.tables.items() if caption in name for c in cells]


def numbers_of(tree):
    if isinstance(tree, dict):
        return [n for value in tree.values() for n in numbers_of(value)]
    if isinstance(tree, list):
        return [n for value in tree for n in numbers_of(value)]
    return [float(tree)] if isinstance(tree, int | float) else []


def shown_numbers(cell):
    """Each number of a cell with its scale and half a unit of its last digit."""
    text = cell.replace("\N{MINUS SIGN}", "-")
    for sign_and_digits, unit in re.findall(
        r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ([kMGs%])(?!\w))?", text
    ):
        decimals = len(sign_and_digits.partition(".")[2])
        scale = SCALES[unit]
        digits = sign_and_digits.replace(",", "")
        yield float(digits) * scale, 0.5001 * 10**-decimals * scale


@TASKS
def test_every_number_of_the_tables_is_in_the_json(report, page):
    known = numbers_of(
        json.loads(report.model_dump_json(exclude={"roles": {"__all__": {"cases"}}}))
    )
    for caption in (
        "Figures over",
        "Dice",
        "Sensitivity",
        "Mean paired",
        "Counts",
        "One case",
        "Median time",
    ):
        assert_known(Page(page).cells(caption), known)


def assert_known(cells, known):
    for cell in cells:
        words = re.sub(r"HD95|p\d\d|Dice below|Intel.*|^(below )?99(\.9)? %$", "", cell)
        for value, tolerance in shown_numbers(words):
            assert any(abs(value - number) <= tolerance for number in known), cell


@TASKS
def test_every_figure_and_interval_stands_in_its_table(report, page):
    cells = [cell for cells in Page(page).tables.values() for cell in cells]
    for result in report.roles.values():
        for key, figure in {**result.headline, **result.per_class}.items():
            if figure.cases:
                digits = 2 if key.startswith("hd95_mm") else 3
                value, low, high = (
                    f"{number:.{digits}f}" for number in (figure.value, figure.low, figure.high)
                )
                assert f"{value} [{low}, {high}]" in cells


@TASKS
def test_the_headline_has_three_rows_in_order(page):
    words = " ".join(Page(page).cells("Figures over 52 test cases of 39 patients; below"))
    order = [words.index(role) for role in ("Teacher", "Student", "Baseline")]
    assert order == sorted(order)


@pytest.mark.parametrize("report", ["classification"], indirect=True)
def test_a_classification_page_speaks_of_no_segmentation(page):
    for words in ("AUROC", "Balanced accuracy", "Sensitivity", "at specificity 0.95", "ECE"):
        assert words in page
    for words in ("HD95", "Empty masks", "structure"):
        assert words not in page


@TASKS
def test_hostile_words_are_inert(report, page, study_folder):
    poisoned = draw(_poisoned(report, EVIL), study_folder=study_folder)
    assert str(escape(EVIL)) in poisoned
    assert EVIL not in poisoned
    assert {tag for tag, _ in Page(poisoned).tags} <= {tag for tag, _ in Page(page).tags}
    known = {name for _, attributes in Page(page).tags for name in attributes}
    assert {name for _, attributes in Page(poisoned).tags for name in attributes} <= known
    for svg in _drawings(poisoned):
        assert b"<script" not in svg
        assert b"<img" not in svg


def _poisoned(report, evil):
    """The same report with ``evil`` wherever a person or a file can put words."""
    old = report.classes[-1]
    text = report.model_dump_json().replace(json.dumps(old), json.dumps(evil))
    text = text.replace(f"/{old}", f"/{json.dumps(evil)[1:-1]}")
    return (
        type(report)
        .model_validate_json(text)
        .model_copy(
            update={
                "study": evil,
                "reasons": (evil,),
                "notes": (evil,),
                "card": {evil: evil, "list": [evil, {"deep": evil}]},
                "config": {**report.config, "preprocess": {evil: evil}},
                "environment": {evil: [evil]},
                "digests": {evil: evil},
                "leakage": {evil: 0},
                "overlays": tuple(
                    overlay.model_copy(update={"rank": evil, "case": evil})
                    for overlay in report.overlays
                ),
                "statement": dict.fromkeys(QUESTIONS, evil),
            }
        )
    )


def test_only_the_script_of_the_gallery_runs_by_its_digest(segmentation, study_folder, tmp_path):
    page = draw(segmentation, study_folder=study_folder)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "innerHTML" not in script
    assert "eval" not in script
    without = draw(segmentation, study_folder=tmp_path)
    assert "<script" not in without
    assert "script-src" not in without


@TASKS
def test_every_number_that_the_page_shows_is_in_the_json(report, page):
    """Of the whole page: what is neither in the report nor in the template's own prose."""
    tree = json.loads(report.model_dump_json())
    known = [*numbers_of(tree), *(float(n) for s in strings_of(tree) for n in digits_of(s))]
    prose = (Path(build.__file__).with_name("template.html")).read_text()
    own = {*digits_of(prose), *digits_of(OWN_PROSE), *map(str, range(1, 36))}
    own |= {n for item in checklist.ITEMS for source in item.sources for n in digits_of(source)}
    for piece in Visible(page).pieces:
        for value, tolerance in shown_numbers(
            re.sub(r"(case|patient|study)-[0-9a-f]{8}", "", piece)
        ):
            if f"{abs(value):g}" not in own:
                near = any(abs(abs(value) - abs(number)) <= tolerance for number in known)
                assert near, (value, piece)


# what modules write between the figures: percentages of intervals and of MLPerf's classes, names of
# guidelines, percentiles
OWN_PROSE = (
    "0.99 0.999 0.8 0.95 0.975 95 2020 p50 p90 p99 HD95 95th ISO 14971 2026-01-31 1 12 80 8 10 1.5"
)


def strings_of(tree):
    if isinstance(tree, dict):
        return [s for pair in tree.items() for value in pair for s in strings_of(value)]
    if isinstance(tree, list):
        return [s for value in tree for s in strings_of(value)]
    return [tree] if isinstance(tree, str) else []


def digits_of(text):
    return re.findall(r"\d+(?:\.\d+)?", text)


class Visible(HTMLParser):
    """The words that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.pieces, self._hidden = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._hidden = tag in ("style", "script", "title", "code")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.pieces.append(data)


def _drawings(page):
    found = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    return [base64.b64decode(content) for content in found]


@TASKS
def test_the_page_needs_nothing_but_itself(page):
    tags = Page(page).tags
    for _, attributes in tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert "url(" not in page
    assert "@import" not in page
    assert not {tag for tag, _ in tags} & {"iframe", "object", "link"}
    assert not any("src" in attributes for tag, attributes in tags if tag == "script")
    assert not {name for _, attributes in tags for name in attributes if name.startswith("on")}
    assert "default-src 'none'" in page


@TASKS
def test_the_page_can_be_read_without_eyes(page):
    page = Page(page)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") > 10
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    links = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert set(links) <= set(ids)


@TASKS
def test_the_same_report_gives_the_same_bytes(report, page, study_folder):
    assert draw(report, study_folder=study_folder) == page


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_banner_says_verdict_and_reasons_in_words(verdict, segmentation, tmp_path):
    report = segmentation.model_copy(update={"verdict": verdict, "reasons": ("for this reason",)})
    banner = draw(report, study_folder=tmp_path).partition('<section class="verdict')[2]
    banner = " ".join(banner.partition("</section>")[0].split())
    assert f"{verdict}</h2>" in banner
    assert "for this reason" in banner
    assert "not an approval" in banner


@pytest.mark.parametrize("report", ["segmentation"], indirect=True)
def test_pictures_are_embedded_and_missing_ones_are_named(page):
    assert page.count("data:image/png;base64,") == 4
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("picture is missing") == 1
    assert "overlays/1.png" in page


def test_what_was_not_measured_is_said(segmentation, tmp_path):
    student = segmentation.roles[Role.STUDENT]
    bare = {
        name: i.model_copy(update={"low": None, "high": None})
        for name, i in student.headline.items()
    }
    lone = student.model_copy(update={"latency": None, "headline": bare})
    report = segmentation.model_copy(
        update={"roles": {Role.STUDENT: lone}, "comparisons": (), "gates": (), "card": None}
    )
    text = draw(report, study_folder=tmp_path)
    assert "Latency was not measured" in text
    assert "The config named no criteria" in text
    assert "There is no data card" in text
    cells = Page(text).cells("Figures over")
    assert f"{bare['dice'].value:.3f}" in [cell.strip() for cell in cells]
    assert "not measured" in cells
    assert not any(cell.startswith("Teacher") for cell in cells)


def test_a_report_of_no_roles_is_a_page_as_well(segmentation, tmp_path):
    report = segmentation.model_copy(
        update={"roles": {}, "comparisons": (), "split": {}, "verdict": Verdict.INCOMPLETE}
    )
    assert "INCOMPLETE" in draw(report, study_folder=tmp_path)


@TASKS
def test_the_page_is_written_from_the_json_on_disk(report, page, study_folder):
    (study_folder / "report.json").write_text(report.model_dump_json())
    written = write_page(study_folder)
    assert written == study_folder / "report.html"
    assert written.read_text(encoding="utf-8") == page


def test_a_study_without_a_report_is_told_to_run_first(tmp_path):
    with pytest.raises(StudyError, match="run the study to its end"):
        write_page(tmp_path)
