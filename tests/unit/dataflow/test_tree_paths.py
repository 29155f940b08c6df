"""Paths: what Git and file systems cannot hold is refused where it enters."""

import pytest

from dataflow.errors import InvalidNameError
from dataflow.tree.paths import check_name, parse, text


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b"a/b",
        b"a\0b",
        b".git",
        b".GIT",
        b".Git",
        b"git~1",
        b"GIT~1",
        b".git. .",
        b".git::$INDEX",
        b".git\\x",
        b"x\\.git",
        ".g\u200cit".encode(),
        b"n" * 256,
    ],
)
def test_names_refused(name: bytes) -> None:
    with pytest.raises(InvalidNameError):
        check_name(name)


@pytest.mark.parametrize("name", [b".gitignore", b"git", b"\xff\xfe", b"n" * 255, b"a b", b"..."])
def test_names_taken(name: bytes) -> None:
    assert check_name(name) == name


def test_parse_and_text_are_inverse() -> None:
    assert parse("a/b/") == parse("/a/b") == (b"a", b"b")
    assert parse("") == parse("/") == ()
    assert text(parse(b"\xff/x")).encode("utf-8", "surrogateescape") == b"\xff/x"


@pytest.mark.parametrize("path", ["a//b", "a/../b", "a/" * 3000])
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidNameError):
        parse(path)
