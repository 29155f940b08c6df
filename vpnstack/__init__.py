"""A userspace TCP/IP stack and virtual network on virtio-net frames."""

from pathlib import Path

from .aio.host import Host
from .aio.network import Network
from .config import GatewayConfig
from .errors import LinkError, UsageError, VpnstackError
from .gateway import Gateway
from .link.impair import Impairment
from .link.port import Jack, Listener, Offload, Port, PortClosed

__version__ = "0.1.0"
__all__ = [
    "Gateway",
    "GatewayConfig",
    "Host",
    "Impairment",
    "Jack",
    "LinkError",
    "Listener",
    "Network",
    "Offload",
    "Port",
    "PortClosed",
    "UsageError",
    "VpnstackError",
    "__version__",
    "get_include",
]


def get_include() -> str:
    """Return the directory of `frame.h`, for C code that fills or drains frames."""
    return str(Path(__file__).parent / "core")
