"""PDF: the page on paper, printed by the Chromium of this machine."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from medkd.errors import MissingExtraError, StudyError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 180
# nothing is fetched, sent or kept: no network name resolves, and the profile is thrown away
QUIETLY = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def write_pdf(page: Path) -> Path:
    """Print a page into a PDF of the same name beside it.

    Raises:
        MissingExtraError: no Chromium or Chrome is on the PATH.
        StudyError: the browser printed nothing.
    """
    browser, target = find_browser(), page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(dir=page.parent, prefix=".pdf-") as folder:
        printed = Path(folder) / "page.pdf"
        command = [
            browser,
            *QUIETLY,
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which Chromium refuses to root
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={printed}",
            page.resolve().as_uri(),
        ]
        said = _run(command)
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF"):
            raise StudyError(
                f"{page}: {browser} printed no PDF: {said[-300:] or 'it said nothing'}"
            )
        printed.replace(target)
    return target


def find_browser() -> str:
    """Return the path of Chromium or Chrome.

    Raises:
        MissingExtraError: none is on the PATH.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise MissingExtraError(
            f"a PDF is printed by Chromium or Chrome, and none is on the PATH (looked for "
            f"{', '.join(BROWSERS)}); install one, or print report.html from any browser"
        )
    return found


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S} s"
    return done.stderr.strip()
