"""Edits of a Git config file keep all that is not theirs."""

from __future__ import annotations

import pytest
from dulwich.file import GitFile
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import RefLockedError
from dataflow.sync import config
from dataflow.sync.config import RemoteConfig

OTHERS = """\
; a comment
[core]
\tbare = true  # another
[remote "up"] url = git://a/b ; here
\t# why we fetch this way
\tfetch = +refs/heads/*:refs/remotes/up/*
\ttagOpt = --no-tags
[Remote "o\\"dd"]
\turl = "with \\
[remote \\"up\\"] space"
[branch "main"]
\tremote = up
"""


def test_what_git_wrote_is_read() -> None:
    assert config.read_urls(OTHERS) == {"up": "git://a/b", 'o"dd': 'with [remote "up"] space'}


def test_set_url_touches_one_line() -> None:
    changed = config.set_url(OTHERS, "up", "git://c")
    assert config.read_urls(changed)["up"] == "git://c"
    assert (
        changed.replace('[remote "up"]\n\turl = git://c', '[remote "up"] url = git://a/b ; here')
        == OTHERS
    )


def test_set_url_of_a_continued_line() -> None:
    changed = config.set_url(OTHERS, 'o"dd', "x")
    assert config.read_urls(changed) == {"up": "git://a/b", 'o"dd': "x"}
    assert changed.count("[remote") == 1 + changed.count("[Remote") - 1
    assert config.set_url(changed, 'o"dd', "").count("url") == 1


def test_rename_moves_the_usual_refspec_only() -> None:
    changed = config.rename(OTHERS, "up", "down")
    assert "fetch = +refs/heads/*:refs/remotes/down/*" in changed
    assert "tagOpt = --no-tags" in changed
    assert config.read_urls(changed).keys() == {"down", 'o"dd'}
    other = '[remote "a"]\n\tfetch = +refs/heads/x:refs/y\n'
    assert "fetch = +refs/heads/x:refs/y" in config.rename(other, "a", "b")


def test_remove_leaves_the_rest() -> None:
    changed = config.remove(OTHERS, "up")
    assert config.read_urls(changed).keys() == {'o"dd'}
    for kept in ("; a comment", "bare = true  # another", '[branch "main"]'):
        assert kept in changed
    assert config.read_urls(config.remove(changed, 'o"dd')) == {}


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=40).map(str.strip),
    st.sampled_from(["a", "a/b", "[x]", "ü", "a.b", "a'b"]),
)
def test_any_url_and_name_come_back(url: str, name: str) -> None:
    text = config.add(OTHERS, name, url)
    assert config.read_urls(text)[name] == url
    text = config.set_url(text, name, "u" + url)
    assert config.read_urls(text)[name] == "u" + url
    assert config.read_urls(config.remove(text, name)) == config.read_urls(OTHERS)


def test_a_lock_left_behind_is_told_with_its_age(tmp_path) -> None:
    path = tmp_path / "config"
    remotes = RemoteConfig(str(path))
    lock = GitFile(str(path), "wb")
    with pytest.raises(RefLockedError, match=rf"{path}\.lock exists since \d+\.\d s"):
        remotes.add("up")
    lock.abort()
    remotes.add("up", "x")
    assert RemoteConfig(str(path)).urls() == {"up": "x"}
