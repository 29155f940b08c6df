"""Names that scripts use: constants of the socket API by Linux's values, ICMP types and codes."""

from __future__ import annotations

CONSTANTS: dict[str, int] = {
    "AF_INET": 2, "AF_INET6": 10, "PF_INET": 2, "PF_INET6": 10,
    "SOCK_STREAM": 1, "SOCK_DGRAM": 2, "SOCK_NONBLOCK": 0o4000, "SOCK_CLOEXEC": 0o2000000,
    "IPPROTO_IP": 0, "IPPROTO_TCP": 6, "IPPROTO_UDP": 17, "IPPROTO_IPV6": 41,
    "SOL_SOCKET": 1, "SOL_IP": 0, "SOL_TCP": 6, "SOL_UDP": 17, "SOL_IPV6": 41,
    "SO_REUSEADDR": 2, "SO_TYPE": 3, "SO_ERROR": 4, "SO_BROADCAST": 6, "SO_SNDBUF": 7,
    "SO_RCVBUF": 8, "SO_KEEPALIVE": 9, "SO_OOBINLINE": 10, "SO_LINGER": 13, "SO_REUSEPORT": 15,
    "SO_RCVLOWAT": 18, "SO_ACCEPTCONN": 30, "SO_SNDBUFFORCE": 32, "SO_RCVBUFFORCE": 33,
    "SO_PROTOCOL": 38, "SO_DOMAIN": 39,
    "TCP_NODELAY": 1, "TCP_MAXSEG": 2, "TCP_CORK": 3, "TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 6, "TCP_SYNCNT": 7, "TCP_LINGER2": 8, "TCP_DEFER_ACCEPT": 9,
    "TCP_WINDOW_CLAMP": 10, "TCP_INFO": 11, "TCP_QUICKACK": 12, "TCP_CONGESTION": 13,
    "TCP_USER_TIMEOUT": 18, "TCP_NOTSENT_LOWAT": 25,
    "IP_TOS": 1, "IP_TTL": 2, "IP_MTU_DISCOVER": 10, "IP_RECVERR": 11, "IP_MTU": 14,
    "IPV6_UNICAST_HOPS": 16, "IPV6_MTU_DISCOVER": 23, "IPV6_MTU": 24, "IPV6_V6ONLY": 26,
    "MSG_OOB": 1, "MSG_PEEK": 2, "MSG_TRUNC": 0x20, "MSG_DONTWAIT": 0x40, "MSG_WAITALL": 0x100,
    "MSG_NOSIGNAL": 0x4000, "MSG_MORE": 0x8000,
    "SHUT_RD": 0, "SHUT_WR": 1, "SHUT_RDWR": 2,
    "F_GETFL": 3, "F_SETFL": 4, "O_RDWR": 2, "O_NONBLOCK": 0o4000,
    "FIONREAD": 0x541B, "SIOCINQ": 0x541B, "SIOCOUTQ": 0x5411, "SIOCOUTQNSD": 0x894B,
    "FIONBIO": 0x5421,
    "POLLIN": 1, "POLLPRI": 2, "POLLOUT": 4, "POLLERR": 8, "POLLHUP": 16, "POLLNVAL": 32,
    "POLLRDNORM": 64, "POLLRDHUP": 0x2000,
    "INADDR_ANY": 0, "INADDR_LOOPBACK": 0x7F000001,
}  # fmt: skip

ECN = {"noecn": 0, "ect1": 1, "ect0": 2, "ce": 3, "ect01": -1}

ICMP_TYPES: dict[int, dict[str, int]] = {
    4: {
        "echo_reply": 0, "unreachable": 3, "source_quench": 4, "redirect": 5, "echo_request": 8,
        "time_exceeded": 11, "parameter_problem": 12, "timestamp_request": 13,
        "timestamp_reply": 14,
    },
    6: {
        "unreachable": 1, "packet_too_big": 2, "time_exceeded": 3, "parameter_problem": 4,
        "echo_request": 128, "echo_reply": 129,
    },
}  # fmt: skip

ICMP_CODES: dict[int, dict[str, dict[str, int]]] = {
    4: {
        "unreachable": {
            "net_unreachable": 0, "host_unreachable": 1, "protocol_unreachable": 2,
            "port_unreachable": 3, "frag_needed": 4, "source_route_failed": 5, "net_unknown": 6,
            "host_unknown": 7, "source_host_isolated": 8, "net_prohibited": 9,
            "host_prohibited": 10, "net_unreachable_for_tos": 11, "host_unreachable_for_tos": 12,
            "packet_filtered": 13, "precedence_violation": 14, "precedence_cutoff": 15,
        },
        "time_exceeded": {"ttl": 0, "reassembly": 1},
    },
    6: {
        "unreachable": {
            "no_route": 0, "admin_prohibited": 1, "beyond_scope": 2, "address_unreachable": 3,
            "port_unreachable": 4, "policy_failed": 5, "reject_route": 6,
        },
        "time_exceeded": {"ttl": 0, "reassembly": 1},
        "parameter_problem": {
            "bad_field": 0, "unknown_next_header": 1, "unknown_option": 2,
        },
    },
}  # fmt: skip


def icmp_name(version: int, kind: int, code: int) -> str:
    """Write an ICMP type and code as scripts do."""
    name = next((text for text, n in ICMP_TYPES[version].items() if n == kind), "")
    codes = ICMP_CODES[version].get(name, {})
    word = next((text for text, n in codes.items() if n == code), "")
    if not word and (code or codes):
        word = f"code {code}"
    return f"{name or f'type {kind}'} {word}".strip()
