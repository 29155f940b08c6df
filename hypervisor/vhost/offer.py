"""What a back-end says of its device: features, rings, configuration space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..queue.layout import Feature
from .messages import Protocol

PAIRS_MAX = 8

DEVICE_FEATURES = (
    Feature.NET_CSUM
    | Feature.NET_GUEST_CSUM
    | Feature.NET_MTU
    | Feature.NET_GUEST_TSO4
    | Feature.NET_GUEST_TSO6
    | Feature.NET_GUEST_ECN
    | Feature.NET_HOST_TSO4
    | Feature.NET_HOST_TSO6
    | Feature.NET_HOST_ECN
    | Feature.NET_GUEST_USO4
    | Feature.NET_GUEST_USO6
    | Feature.NET_HOST_USO
    | Feature.NET_MRG_RXBUF
    | Feature.NET_MQ
    | Feature.RING_INDIRECT_DESC
    | Feature.RING_EVENT_IDX
    | Feature.VHOST_PROTOCOL_FEATURES
    | Feature.VERSION_1
)
# Without CONFIG: QEMU suppresses it for net devices with a warning.
PROTOCOL_FEATURES = Protocol.MQ | Protocol.REPLY_ACK | Protocol.MTU | Protocol.CONFIGURE_MEM_SLOTS


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device says of itself: feature bits, rings, and its configuration space, if any."""

    features: int
    protocol: Protocol
    rings: int
    queues: int  # the answer to GET_QUEUE_NUM
    config: Callable[[], bytes] | None = None


def offer_net(pairs: int) -> Offer:
    """Return a network device's offer."""
    features = DEVICE_FEATURES if pairs > 1 else DEVICE_FEATURES & ~Feature.NET_MQ
    return Offer(int(features), PROTOCOL_FEATURES, 2 * pairs, pairs)


def offer_device(features: int, rings: int, config: Callable[[], bytes]) -> Offer:
    """Return the offer of any other device with these bits of its own."""
    common = (
        Feature.RING_INDIRECT_DESC
        | Feature.RING_EVENT_IDX
        | Feature.VHOST_PROTOCOL_FEATURES
        | Feature.VERSION_1
    )
    protocol = Protocol.MQ | Protocol.REPLY_ACK | Protocol.CONFIG | Protocol.CONFIGURE_MEM_SLOTS
    return Offer(features | int(common), protocol, rings, rings, config)
