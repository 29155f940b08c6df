"""Remotes in a repository's `config`, as `git remote` keeps them.

dulwich reads the file; it is edited as text, one section at a time, so that comments and what
others wrote stay as they are (dulwich would write all of it anew).  Git's own lock `config.lock`
is held from reading to writing.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable

from dulwich.config import ConfigFile
from dulwich.file import FileLocked, GitFile
from dulwich.refs import check_ref_format

from ..errors import (
    ExistsError,
    InvalidNameError,
    NotFoundError,
    PeerError,
    RefLockedError,
    UsageError,
)

REMOTES_MAX = 256
URL_MAX = 4096

_SECTION = re.compile(r"\s*\[")
_REMOTE = re.compile(
    r'(\s*\[\s*remote\s+"((?:[^"\\\n]|\\.)*)"\s*\])(.*)', re.IGNORECASE | re.DOTALL
)
_URL = re.compile(r"\s*url\s*(=|$)", re.IGNORECASE)
_FETCH = re.compile(r"\s*fetch\s*=", re.IGNORECASE)

Section = list[str]  # lines with their ends; the first is the header, but for what precedes all


def check_remote(name: str) -> str:
    """Return `name` if git could have a remote of that name, else raise `InvalidNameError`."""
    ref = f"refs/remotes/{name}/x".encode("utf-8", "surrogateescape")
    odd = not name or name.startswith("-") or re.search('[";#]', name)  # dulwich misreads these
    if odd or not check_ref_format(ref):  # type: ignore[arg-type]
        raise InvalidNameError(f"{name!r} cannot be the name of a remote")
    return name


def check_url(url: str) -> str:
    """Return `url` if it fits one line of a config file; "" is no URL yet."""
    if len(url) > URL_MAX or any(c < " " or c == "\x7f" for c in url):
        raise UsageError(f"url: expected one line of at most {URL_MAX} octets, found {url[:64]!r}")
    return url


def read_urls(text: str) -> dict[str, str]:
    """Return the remotes in a config file with their URLs ("" where there is none)."""
    try:
        config = ConfigFile.from_file(io.BytesIO(text.encode("utf-8", "surrogateescape")))
    except ValueError as err:
        raise PeerError(f"config: {err}") from err
    found = {}
    for section in config.sections():
        if len(section) == 2 and section[0].lower() == b"remote":
            try:
                url = config.get(section, b"url")
            except KeyError:
                url = b""
            found[_text(section[1])] = _text(url)
    return found


def add(text: str, name: str, url: str) -> str:
    """Return the file with a new section for a remote."""
    lines = [f'[remote "{_quoted(name)}"]\n', *_url_line(url), _fetch_line(name)]
    return (text if not text or text.endswith("\n") else text + "\n") + "".join(lines)


def set_url(text: str, name: str, url: str) -> str:
    """Return the file with another URL for a remote that is there."""
    pending = _url_line(url)

    def change(section: Section) -> Section:
        nonlocal pending
        kept = [entry for entry in _entries(section) if not _URL.match(entry)]
        changed = [section[0], *pending, *kept]
        pending = []
        return changed

    return _edited(text, name, change)


def rename(text: str, old: str, new: str) -> str:
    """Return the file with another name for a remote; its default place of refs moves along."""

    def change(section: Section) -> Section:
        usual = _fetch_line(old).split("=", 1)[1].strip()
        entries = [
            _fetch_line(new) if _FETCH.match(e) and e.split("=", 1)[1].strip() == usual else e
            for e in _entries(section)
        ]
        return [f'[remote "{_quoted(new)}"]\n', *entries]

    return _edited(text, old, change)


def remove(text: str, name: str) -> str:
    """Return the file without a remote."""
    return _edited(text, name, lambda section: [])


def _edited(text: str, name: str, change: Callable[[Section], Section]) -> str:
    out: list[str] = []
    for section in _sections(text):
        match = _REMOTE.match(section[0]) if section else None
        if match is None or _unquoted(match[2]) != name:
            out += section
            continue
        rest = match[3].strip()  # git allows `[remote "x"] url = y`
        inline = [f"\t{rest}\n"] if rest else []
        out += change([match[1].strip() + "\n", *inline, *section[1:]])
    return "".join(out)


def _sections(text: str) -> list[Section]:
    sections: list[Section] = [[]]
    continued = False
    for line in text.splitlines(keepends=True):
        if not continued and _SECTION.match(line):
            sections.append([])
        sections[-1].append(line)
        continued = line.rstrip("\r\n").endswith("\\")
    if sections[-1] and not sections[-1][-1].endswith("\n"):
        sections[-1][-1] += "\n"
    return sections


def _entries(section: Section) -> list[str]:
    """Return what is below a header, lines that go on joined with those they go on from."""
    entries: list[str] = []
    continued = False
    for line in section[1:]:
        if continued:
            entries[-1] += line
        else:
            entries.append(line)
        continued = line.rstrip("\r\n").endswith("\\")
    return entries


def _url_line(url: str) -> list[str]:
    return [f'\turl = "{_quoted(url)}"\n' if re.search(r'[\s"\\;#]', url) else f"\turl = {url}\n"][
        : bool(url)
    ]


def _fetch_line(name: str) -> str:
    return f"\tfetch = +refs/heads/*:refs/remotes/{name}/*\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


class RemoteConfig:
    """The remotes of one repository: in its config file, or in memory where `path` is None."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._memory = ""

    def urls(self) -> dict[str, str]:
        """Return the remotes with their URLs; blocking."""
        return read_urls(self._load())

    def add(self, name: str, url: str = "") -> None:
        """Add a remote; `ExistsError`."""
        check_remote(name), check_url(url)

        def edit(text: str, there: dict[str, str]) -> str:
            if name in there:
                raise ExistsError(name)
            if len(there) >= REMOTES_MAX:
                raise UsageError(f"more than {REMOTES_MAX} remotes")
            return add(text, name, url)

        self._edit(edit)

    def set_url(self, name: str, url: str) -> None:
        """Change a remote's URL; `NotFoundError`."""
        check_url(url)
        self._edit(lambda text, there: set_url(text, _there(name, there), url))

    def rename(self, old: str, new: str) -> None:
        """Give a remote another name; `NotFoundError`, `ExistsError`."""
        check_remote(new)

        def edit(text: str, there: dict[str, str]) -> str:
            if new in there:
                raise ExistsError(new)
            return rename(text, _there(old, there), new)

        self._edit(edit)

    def remove(self, name: str) -> None:
        """Forget a remote; `NotFoundError`."""
        self._edit(lambda text, there: remove(text, _there(name, there)))

    def _load(self) -> str:
        if self._path is None:
            return self._memory
        try:
            with open(self._path, "rb") as f:
                return _text(f.read())
        except FileNotFoundError:
            return ""

    def _edit(self, edit: Callable[[str, dict[str, str]], str]) -> None:
        if self._path is None:
            self._memory = edit(self._memory, read_urls(self._memory))
            return
        try:
            file = GitFile(self._path, "wb")
        except FileLocked:
            lock = self._path + ".lock"
            raise RefLockedError(lock, _age(lock), 0.0) from None
        try:
            text = self._load()
            file.write(edit(text, read_urls(text)).encode("utf-8", "surrogateescape"))
        except BaseException:
            file.abort()
            raise
        file.close()


def _there(name: str, there: dict[str, str]) -> str:
    if name not in there:
        raise NotFoundError(name)
    return name


def _age(path: str) -> float:
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return 0.0
