import os

import pytest

from medkd.data.tree import files_below, walk
from medkd.errors import DataError


@pytest.fixture
def tree(tmp_path):
    """A tree with links out of it, back into it, in a circle, up, and to nothing."""
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top / "b", top / "c/deep", top / ".git", top / "lost+found", other / "d"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (top / "a_again").symlink_to(top / "c")
    (top / "elsewhere").symlink_to(other / "d")
    (other / "d/up").symlink_to("..")
    (top / "c/deep/circle").symlink_to(top)
    (top / "c/up").symlink_to("../..")
    (top / "b/gone").symlink_to("nowhere")
    return top


@pytest.fixture
def unlistable(monkeypatch, tree):
    """A folder of the tree that cannot be listed."""
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return tree / "c/deep"


def folders(tree, unlisted):
    return [place.relative_to(tree).as_posix() for place, _ in walk(tree, unlisted=unlisted.append)]


def test_folders_behind_links_are_walked_once_and_by_their_own_names_if_they_have_some(tree):
    assert folders(tree, []) == [".", "b", "c", "c/deep", "elsewhere"]


def test_files_are_those_of_all_folders_and_links_to_nothing(tree):
    told = [path.relative_to(tree).as_posix() for path in files_below(tree)]
    assert told == ["b/file", "b/gone", "c/deep/file", "elsewhere/file"]


def test_what_cannot_be_listed_is_told(tree, unlistable):
    unlisted = []
    assert "c/deep" not in folders(tree, unlisted)
    assert [error.filename for error in unlisted] == [str(unlistable)]


def test_files_of_a_tree_that_cannot_be_listed_whole_are_refused(tree, unlistable):
    with pytest.raises(DataError, match=r"deep: the folder cannot be listed \(Permission denied\)"):
        files_below(tree)


def test_a_file_has_none_below(tree):
    assert files_below(tree / "b/file") == []


def test_a_link_leads_neither_to_what_the_tree_is_called_below_nor_to_where_it_lies(tmp_path):
    for folder in ("named", "real/a", "real/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "named/top").symlink_to(tmp_path / "real/a")
    (tmp_path / "real/a/up").symlink_to(tmp_path / "real")
    (tmp_path / "real/a/back").symlink_to(tmp_path / "named")
    assert files_below(tmp_path / "named/top") == [tmp_path / "named/top/file"]
