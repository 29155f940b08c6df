"""What a repository on disk may be: kinds that this kit does not read are refused in one line."""

from __future__ import annotations

from dulwich.repo import Repo

from ..errors import PeerError
from .base import Oid

_USUAL = (("objectFormat", b"sha1"), ("refStorage", b"files"))


def check_format(repo: Repo) -> Repo:
    """Return `repo` unless it keeps SHA-256 objects or reftables; then close it and raise."""
    config = repo.get_config()
    for name, usual in _USUAL:
        try:
            found = config.get((b"extensions",), name.encode()).lower()
        except KeyError:
            continue
        if found != usual:
            repo.close()
            said = f"{name} is {found.decode()}, expected {usual.decode()}"
            raise PeerError(f"{repo.path}: {said}")
    return repo


def read_shallow(repo: Repo) -> frozenset[Oid]:
    """Return the commits at which a shallow clone was cut: their parents are not there."""
    return frozenset(oid.decode() for oid in repo.get_shallow())
