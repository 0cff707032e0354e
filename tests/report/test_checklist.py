from html.parser import HTMLParser

import pytest

from medkd.report import checklist
from medkd.report.build import draw
from medkd.statement import QUESTIONS, required

TASKS = pytest.mark.parametrize("report", ["segmentation", "classification"], indirect=True)


class Sections(HTMLParser):
    """What stands in each item of the page: its words, and how many tables and pictures."""

    def __init__(self, text):
        super().__init__()
        self.words, self.shown, self._open = {}, {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "section":
            self._open.append(attrs.get("aria-labelledby", ""))
        if self._open and tag in ("table", "img", "li"):
            self.shown[self._open[-1]] = self.shown.get(self._open[-1], 0) + 1

    def handle_endtag(self, tag):
        if tag == "section":
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.words[self._open[-1]] = self.words.get(self._open[-1], "") + " " + data


@TASKS
def test_every_item_stands_in_the_page_in_order_and_none_is_empty(report, page):
    sections = Sections(page)
    items = [name for name in sections.words if name.startswith("item-")]
    assert items == [f"item-{number}" for number in range(1, 36)]
    for item in checklist.ITEMS:
        name, entry = f"item-{item.number}", checklist.entries(report)[item.number]
        words = " ".join(sections.words[name].split())
        assert words.startswith(f"{item.number} {item.title} {', '.join(item.sources)}")
        said = words.removeprefix(f"{item.number} {item.title} {', '.join(item.sources)}")
        assert said.strip(), item.title
        if entry.absent:
            assert entry.absent.startswith(("not recorded", "not applicable"))
            assert entry.absent[1:] in words
            assert ": " in entry.absent, "the reason is missing"


@TASKS
def test_a_question_that_nobody_answered_is_red(report, page):
    for name in required(report):
        (item,) = [item for item in checklist.ITEMS if name in item.asks]
        (answer,) = [a for a in checklist.entries(report)[item.number].answers
                     if a.question == QUESTIONS[name]]  # fmt: skip
        assert answer.mood == "bad"
    assert page.count('<dd class="bad">not filled in') == len(required(report))


def test_what_people_say_stands_at_its_item(segmentation, tmp_path):
    said = {name: f"said of {name}" for name in QUESTIONS}
    page = draw(segmentation.model_copy(update={"statement": said}), study_folder=tmp_path)
    sections = Sections(page)
    for item in checklist.ITEMS:
        for name in item.asks:
            assert f"said of {name}" in sections.words[f"item-{item.number}"]
    assert "not filled in" not in page.replace("intended_use", "").partition("Data sources")[0]


def test_every_question_belongs_to_one_item():
    asked = [name for item in checklist.ITEMS for name in item.asks]
    assert sorted(asked) == sorted(QUESTIONS)


def test_numbers_within_a_source_are_those_of_claim_alone():
    for item in checklist.ITEMS:
        for source in item.sources:
            assert (
                source.startswith("CLAIM 2020 item")
                or not any(map(str.isdigit, source[4:]))
                or source == "CLAIM 2020"
            )


def test_what_a_task_has_not_is_not_applicable(segmentation, classification):
    assert checklist.entries(segmentation)[20].absent.startswith("not applicable")
    assert not checklist.entries(classification)[20].absent


def test_what_was_not_measured_is_not_recorded(segmentation):
    bare = segmentation.model_copy(update={"stress": (), "guard": None, "promises": {}})
    found = checklist.entries(bare)
    assert all(found[number].absent.startswith("not recorded") for number in (22, 24, 28))
    assert not any(checklist.entries(segmentation)[number].absent for number in (22, 24, 28))
