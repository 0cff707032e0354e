import os

import pytest

from medkd.data.tree import files_below, walk


@pytest.fixture
def tree(tmp_path):
    """A tree with a link out of it, one to a folder of itself, and one in a circle."""
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top / "b", top / "a/deep", top / ".git", top / "lost+found", other / "c"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (top / "elsewhere").symlink_to(other)
    (top / "z_again").symlink_to(top / "a")
    (top / "a/deep/circle").symlink_to(top)
    (top / "b/gone").symlink_to("nowhere")
    return top


def test_folders_behind_links_are_walked_once_and_circles_end(tree):
    told = [folder.relative_to(tree).as_posix() for folder in walk(tree)]
    assert told == [".", "a", "a/deep", "b", "elsewhere", "elsewhere/c"]


def test_files_are_those_of_all_folders_and_links_to_nothing(tree):
    told = [path.relative_to(tree).as_posix() for path in files_below(tree)]
    assert told == ["a/deep/file", "b/file", "b/gone", "elsewhere/c/file"]


def test_what_cannot_be_listed_is_told(tree, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    unlisted = []
    assert tree / "a/deep" not in list(walk(tree, unlisted=unlisted.append))
    assert [error.filename for error in unlisted] == [str(tree / "a/deep")]
