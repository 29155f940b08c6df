"""What may be shared, and what is said where it may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import uvloop
from click.testing import CliRunner

from dataflow import Repository, Server, repository_root
from dataflow.p9.nodes import StaticDir
from hypervisor import EngineError, Machine, UsageError
from hypervisor.aio.p9 import Outside, Streams
from hypervisor.cli import main
from hypervisor.engine import qemu_args, shares
from hypervisor.engine.kvm import KvmEngine
from hypervisor.engine.qemu import QemuEngine, _confined, _share
from hypervisor.engine.shares import Shares, directory_of, parse

uvloop.run(asyncio.sleep(0))  # libuv opens two descriptors for the life of the process


@pytest.fixture
async def opened() -> AsyncIterator[Shares]:
    made = Shares()
    yield made
    await made.close()


class Handler:
    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


async def test_what_may_be_shared(opened: Shares, tmp_path: Path) -> None:
    with Repository.open(tmp_path / "bare.git"):
        pass
    async with Repository.memory() as repo, Server(repository_root(repo)) as server:
        await opened.open(
            [
                ("address", "unix:/run/there"),
                ("server", server),
                ("handler", Handler()),
                ("repository", repo),
                ("node", StaticDir({})),
                ("directory", tmp_path),
                ("read-only", f"ro:{tmp_path}"),
                ("bare", str(tmp_path / "bare.git")),
                ("as it lies", f"dir:{tmp_path}/bare.git"),
                ("made", f"git:{tmp_path}/new.git"),
            ]
        )
        by_tag = dict(opened.servers)
        assert isinstance(by_tag["address"], Outside)
        assert by_tag["server"] is server
        assert isinstance(by_tag["handler"], Streams)
        for tag in ("repository", "node", "bare", "made"):
            assert isinstance(by_tag[tag], Server)
            assert directory_of(by_tag[tag]) is None
        assert directory_of(by_tag["directory"]) == (str(tmp_path), False)
        assert directory_of(by_tag["read-only"]) == (str(tmp_path), True)
        assert directory_of(by_tag["as it lies"]) == (str(tmp_path / "bare.git"), False)
        assert (tmp_path / "new.git/HEAD").exists()
        await opened.close()
        assert repo.branch("main").head is None, "a repository that is given stays open"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("unix:", "share x: share 'unix:': expected unix:PATH or tcp:HOST:PORT"),
        ("/no/such/place", "share x: /no/such/place: No such file or directory"),
        ("ro:/dev/null", "share x: /dev/null: Not a directory"),
        (7, "share x: 7 is neither an address nor a 9P server"),
    ],
)
async def test_what_may_not_be_shared(opened: Shares, what: object, why: str) -> None:
    with pytest.raises(EngineError) as caught:
        await opened.open([("x", what)])
    assert str(caught.value).startswith(why)


async def test_a_package_registers_what_it_knows(
    opened: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("test", f"{__name__}:unused", shares.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: know)
    monkeypatch.setattr(shares, "entry_points", lambda group: [entry])
    await opened.open([("x", "seven")])
    assert isinstance(opened.servers[0][1], Streams)
    assert KNOWN == ["opened"]
    await opened.close()
    assert KNOWN == ["opened", "closed"]
    with pytest.raises(EngineError, match=r"hypervisor\.shares knows it"):
        await opened.open([("x", "eight")])


KNOWN: list[str] = []


def know(what: object) -> contextlib.AbstractAsyncContextManager[object] | None:
    @contextlib.asynccontextmanager
    async def open_() -> AsyncIterator[object]:
        KNOWN.append("opened")
        yield Handler()
        KNOWN.append("closed")

    return open_() if what == "seven" else None


def test_words_of_a_command_line() -> None:
    assert parse(["a=/x", "b=git:y=z"]) == {"a": "/x", "b": "git:y=z"}
    for words in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(UsageError, match=r"expected TAG=DIR\|REPOSITORY\|ADDRESS"):
            parse(words)


def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(100))
    runner = CliRunner()
    done = runner.invoke(main, ["run", "-k", str(kernel), "--share", "src"])
    assert done.exit_code == 1
    assert "Error: share 'src': expected TAG=" in done.output
    done = runner.invoke(main, ["run", "-k", str(kernel), "--share", "src=/no/such/place"])
    assert done.exit_code == 1
    assert done.output == "Error: share src: /no/such/place: No such file or directory\n"


def test_a_machine_checks_tags() -> None:
    with pytest.raises(UsageError, match="expected a name of 1 to 255"):
        Machine(__file__, shares={"": "/tmp"})
    assert Machine(__file__, shares={"a": "/x"}).config.shares == (("a", "/x"),)


@pytest.mark.parametrize("engine", ["kvm", "qemu"])
async def test_a_machine_that_cannot_share_does_not_start(engine: str) -> None:
    vm = Machine(__file__, engine=engine, shares={"data": "/no/such/place"})
    with pytest.raises(EngineError, match="share data: /no/such/place: No such file"):
        await vm.start()
    assert isinstance(vm.engine, KvmEngine | QemuEngine)


async def test_qemu_shares_directories_alone(opened: Shares, tmp_path: Path) -> None:
    await opened.open([("src", f"ro:{tmp_path}"), ("data", StaticDir({}))])
    (_, directory), (_, node) = opened.servers
    args = qemu_args.share(3, _share("src", directory))
    assert args == [
        "-fsdev",
        f"local,id=share3,path={tmp_path},security_model=none,multidevs=remap,readonly=on",
        "-device",
        "virtio-9p-device,fsdev=share3,mount_tag=src",
    ]
    with pytest.raises(EngineError, match=r"share data is no directory.*trans=tcp"):
        _share("data", node)


async def test_set_id_bits_are_kept_by_all_of_qemus_shares_or_none(
    opened: Shares, tmp_path: Path
) -> None:
    kinds = ("dir", "ro", "setuid")
    await opened.open([(kind, f"{kind}:{tmp_path}") for kind in kinds])
    by_tag = {tag: _share(tag, server) for tag, server in opened.servers}
    assert [by_tag[kind].keep_setuid for kind in kinds] == [False, False, True]
    assert not _confined([])
    assert not _confined([by_tag["ro"]])
    assert _confined([by_tag["dir"], by_tag["ro"]])
    assert not _confined([by_tag["setuid"], by_tag["ro"]])
    with pytest.raises(EngineError, match="share setuid is setuid: and others are not"):
        _confined([by_tag["dir"], by_tag["setuid"]])
