"""Where control sockets lie, and what a killed process leaves there."""

import os
import socket
from pathlib import Path

import pytest

from hypervisor.control import place
from hypervisor.errors import UsageError


def dead(path: Path) -> Path:
    """Leave a socket at which nobody listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def test_runtime_directory_of_the_user(tmp_path: Path) -> None:
    found = place.directory({"XDG_RUNTIME_DIR": str(tmp_path)}, os.geteuid())
    assert found == tmp_path / "trikit" / "hypervisor"


def test_another_users_runtime_directory_is_not_used(tmp_path: Path) -> None:
    uid = 4_000_000  # nobody here
    found = place.directory({"XDG_RUNTIME_DIR": str(tmp_path)}, uid)
    assert found == Path(f"/tmp/trikit-{uid}/hypervisor")


def test_prepare_makes_directories_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "trikit" / "hypervisor"
    place.prepare(path, os.geteuid())
    place.prepare(path, os.geteuid())
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent)] == [0o700, 0o700]


def test_prepare_refuses_what_another_could_change(tmp_path: Path) -> None:
    (tmp_path / "trikit").mkdir()
    (tmp_path / "trikit").chmod(0o777)
    with pytest.raises(UsageError, match="only user"):
        place.prepare(tmp_path / "trikit" / "hypervisor", os.geteuid())


def test_prepare_refuses_another_owner_and_links(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only user 4000000 writes to"):
        place.prepare(tmp_path / "trikit" / "hypervisor", 4_000_000)
    (tmp_path / "link").symlink_to(tmp_path / "trikit")
    with pytest.raises(UsageError, match="is not a directory"):
        place.prepare(tmp_path / "link" / "hypervisor", os.geteuid())


@pytest.mark.parametrize("name", ["web", "web-1.test_2", "9", "a" * 63])
def test_good_names(name: str) -> None:
    assert place.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", "a\n", "ä", "a" * 64])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="the name"):
        place.check_name(name)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    claim = place.claim(tmp_path / "web.sock")
    with pytest.raises(place.NameInUseError, match="a machine web runs already"):
        place.claim(tmp_path / "web.sock")
    claim.close()
    claim.close()
    place.claim(tmp_path / "web.sock").close()


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = dead(tmp_path / "web.sock")
    claim = place.claim(path)
    assert claim.name == "web"
    claim.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "web.sock").write_text("precious")
    with pytest.raises(UsageError):
        place.claim(tmp_path / "web.sock")
    assert (tmp_path / "web.sock").read_text() == "precious"


def test_close_leaves_what_another_put_there(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    first = place.claim(path)
    path.unlink()
    second = place.claim(path)
    first.close()
    assert path.exists()
    second.close()


def test_running_lists_the_living_and_removes_the_dead(tmp_path: Path) -> None:
    stale = dead(tmp_path / "old.sock")
    claims = [place.claim(tmp_path / f"{name}.sock") for name in ("b", "a")]
    assert [path.name for path in place.running(tmp_path)] == ["a.sock", "b.sock"]
    assert not stale.exists()
    for claim in claims:
        claim.close()


def test_running_without_a_directory(tmp_path: Path) -> None:
    assert place.running(tmp_path / "none") == []


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with pytest.raises(UsageError, match="107 bytes"):
        place.claim(deep / "web.sock")
