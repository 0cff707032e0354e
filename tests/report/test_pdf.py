import shutil

import pytest

from medkd.errors import MissingExtraError, StudyError
from medkd.report import pdf
from medkd.report.build import draw


def test_without_a_browser_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="chromium"):
        pdf.write_pdf(tmp_path / "report.html")


def test_a_browser_that_prints_nothing_is_an_error_with_its_words(monkeypatch, tmp_path):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho no display >&2\n")
    browser.chmod(0o755)
    monkeypatch.setattr(pdf, "find_browser", lambda: str(browser))
    with pytest.raises(StudyError, match="printed no PDF: no display"):
        pdf.write_pdf(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["chromium"]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, pdf.BROWSERS)), reason="no Chromium on the PATH")
def test_the_page_is_printed_whole(segmentation, study_folder, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(draw(segmentation, study_folder=study_folder), encoding="utf-8")
    printed = pdf.write_pdf(page)
    content = printed.read_bytes()
    assert printed == tmp_path / "report.pdf"
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.pdf"]
