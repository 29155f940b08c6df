"""The cache: whole entries or none, one builder at a time."""

import threading
from pathlib import Path

import pytest

from hypervisor.errors import UsageError
from hypervisor.image.cache import Cache, default_directory


def test_default_directory_follows_xdg() -> None:
    assert default_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/trikit")
    assert default_directory({"XDG_CACHE_HOME": "relative"}).parts[-2:] == (".cache", "trikit")


def test_publishing_success_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "images" / "k"
    with Cache(tmp_path).publishing(target) as fresh:
        (fresh / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [p.name for p in target.parent.iterdir()] == ["k"]


def test_publishing_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with Cache(tmp_path).publishing(tmp_path / "images" / "k") as fresh:
            (fresh / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "images").iterdir()) == []


def test_lock_keeps_a_second_builder_out(tmp_path: Path) -> None:
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with Cache(tmp_path).locked("k"):
            order.append("second")

    with Cache(tmp_path).locked("k"):
        thread = threading.Thread(target=second)
        thread.start()
        started.wait(5)
        thread.join(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name in ("a", "b"):
        with cache.publishing(cache.images / name) as fresh:
            (fresh / "image.json").write_text("12345")
    assert {p.name for p in cache.entries()} == {"a", "b"}
    assert cache.prune(frozenset({"a"})) == 5
    assert [p.name for p in cache.entries()] == ["a"]


def test_impossible_directory_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="set XDG_CACHE_HOME"),
        Cache(tmp_path / "file").locked("k"),
    ):
        pass
