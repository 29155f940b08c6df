"""The options of a script (`--name=value`), those of the reference and our own.

Ours: `--tcp_NAME` sets a field of `proto.tcp.config.Config` (`--tcp_min_rto=1.0`,
`--tcp_rcv_buf=65536`), `--congestion` names a congestion control, `--gso` shows super-segments as
they leave, `--strict_options` compares TCP options one by one in their order, `--seed` seeds the
stack, `--syn_queue` bounds the handshakes under way, beyond which SYN cookies are sent.
"""

from __future__ import annotations

import dataclasses
import importlib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..proto.tcp.config import Config
from .errors import ScriptError

IGNORED = (
    "init_scripts", "speed", "wire_protocol", "so_filename", "so_flags", "non_fatal",
    "persistent_tun_dev", "send_omit_free", "code_command", "code_format", "code_sockopt",
    "dry_run", "netdev_name", "local_linux_tcp_stack", "verbose", "debug",
)  # fmt: skip
_PREFIX = {4: 16, 6: 64}
LEAST = {"mss": 88, "rcv_buf": 256, "first_buf": 256, "snd_buf": 256, "max_super": 1500}
MOST = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """What a script runs with; addresses are packed, times in seconds."""

    version: int = 4
    mtu: int = 1500
    tolerance: float = 0.004
    ts_tick: float = 0.0  # 0: the values of our timestamps are not checked
    local: bytes = b""
    remote: bytes = b""
    gateway: bytes = b""
    prefix: int = 16
    bind_port: int = 8080
    connect_port: int = 8080
    seed: int = 1
    syn_queue: int = 256
    gso: bool = False
    strict_options: bool = False
    tcp: dict[str, Any] = field(default_factory=dict)


def settings(options: dict[str, str]) -> Settings:
    """Read the options of a script; raises `ScriptError` for one that is unknown or wrong."""
    version = 6 if options.get("ip_version") == "ipv6" else 4
    found: dict[str, Any] = {"version": version, "prefix": _PREFIX[version], "tcp": {}}
    base = ("192.168.0.1", "192.168.0.2", "192.0.2.1")
    if version == 6:
        base = ("fd3d:a0b:17d6::1", "fd3d:a0b:17d6::2", "fd3d:fa7b:d17d::1")
    for key, text in zip(("local", "gateway", "remote"), base, strict=True):
        found[key] = ipaddress.ip_address(text).packed
    for name, value in options.items():
        try:
            _read(name.removeprefix("_"), value, found)
        except ValueError as e:
            raise ScriptError(f"expected a value for --{name}, found {value!r}: {e}") from e
    return Settings(**found)


def _read(name: str, value: str, found: dict[str, Any]) -> None:
    if name in _READERS:
        key, read = _READERS[name]
        found[key] = read(value)
        if key in ("local", "remote", "gateway") and len(found[key]) != len(found["local"]):
            raise ValueError("the other IP version")
    elif name == "congestion":
        found["tcp"]["congestion"] = congestion(value)
    elif name == "ip_version" or name in IGNORED:
        return
    elif name == "tcp_ts_tick_usecs":
        found["ts_tick"] = _micros(value)
    elif name.startswith("tcp_"):
        found["tcp"][name[4:]] = _field(name[4:], value)
    else:
        raise ScriptError(f"expected a known option, found --{name}")


def _field(name: str, value: str) -> bool | int | float:
    """Read a value for a field of `Config` by the type of its default."""
    known = {f.name: f.default for f in dataclasses.fields(Config)}
    default = known.get(name)
    if isinstance(default, bool):
        return _flag(value)
    if isinstance(default, int | float):
        number = type(default)(value)
        if not LEAST.get(name, 0) <= number <= MOST:
            raise ValueError(f"{LEAST.get(name, 0)} to {MOST}")
        return number
    raise ScriptError(f"expected --tcp_NAME of a simple field of Config, found --tcp_{name}")


def congestion(name: str) -> Callable[..., Any]:
    """Find the congestion control class `Name` in proto.tcp.congestion."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", name):
        raise ScriptError(f"expected the name of a congestion control, found {name!r}")
    try:
        module = importlib.import_module(f"vpnstack.proto.tcp.congestion.{name}")
    except ImportError as e:
        raise ScriptError(f"expected a known congestion control, found {name!r}") from e
    for attribute in (name.capitalize(), name.upper()):
        if hasattr(module, attribute):
            return getattr(module, attribute)  # type: ignore[no-any-return]
    raise ScriptError(f"expected a known congestion control, found {name!r}")


def _flag(value: str) -> bool:
    if value.lower() not in ("0", "1", "true", "false", "yes", "no"):
        raise ValueError("0 or 1")
    return value.lower() in ("1", "true", "yes")


def _micros(value: str) -> float:
    return int(value) / 1e6


def _packed(value: str) -> bytes:
    return ipaddress.ip_address(value.partition("/")[0]).packed


def _mtu(value: str) -> int:
    mtu = int(value)
    if not 68 <= mtu <= 65535:
        raise ValueError("68 to 65535")
    return mtu


def _port(value: str) -> int:
    port = int(value)
    if not 0 < port < 65536:
        raise ValueError("1 to 65535")
    return port


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "mtu": ("mtu", _mtu),
    "tolerance_usecs": ("tolerance", _micros),
    "local_ip": ("local", _packed),
    "remote_ip": ("remote", _packed),
    "gateway_ip": ("gateway", _packed),
    "bind_port": ("bind_port", _port),
    "connect_port": ("connect_port", _port),
    "seed": ("seed", int),
    "syn_queue": ("syn_queue", _port),
    "gso": ("gso", _flag),
    "strict_options": ("strict_options", _flag),
}
