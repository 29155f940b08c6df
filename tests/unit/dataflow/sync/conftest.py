"""Other repositories for the tests of remotes: bare ones on disk, served by dulwich's servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from dulwich.repo import Repo
from dulwich.server import DictBackend, TCPGitServer
from dulwich.web import make_wsgi_chain

from dataflow import Repository


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, *args: object) -> None:
        """Do nothing."""


@pytest.fixture
def other(tmp_path) -> str:
    """The path of another repository, with one commit on main."""
    path = tmp_path / "other.git"
    with Repository.open(path, fsync=False) as repo:
        commit(repo, "f", b"1")
    return str(path)


def commit(repo: Repository, path: str, data: bytes, branch: str = "main") -> str:
    """Commit one file with no loop running."""
    with repo.branch(branch).transaction("put") as t:
        t.write(path, data)
    assert t.result is not None
    return t.result.head


@pytest.fixture
def served(other) -> Iterator[Callable[[str], str]]:
    """Return a function from a scheme to the URL of `other`; servers run in threads."""
    running = []

    def url(scheme: str) -> str:
        if scheme in {"path", "file"}:
            return other if scheme == "path" else f"file://{other}"
        backend = DictBackend({"/other": Repo(other)})
        if scheme == "git":
            server = TCPGitServer(backend, "127.0.0.1", 0)
            port = server.server_address[1]
        else:
            server = make_server("127.0.0.1", 0, make_wsgi_chain(backend), handler_class=Quiet)
            port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread, backend))
        return f"{scheme}://127.0.0.1:{port}/other"

    yield url
    for server, thread, backend in running:
        server.shutdown()
        thread.join()
        server.server_close()
        backend.repos["/other"].close()
