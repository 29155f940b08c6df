"""The grammar of scripts: what is read, and what is refused with its line."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from vpnstack.packetdrill import text
from vpnstack.packetdrill.errors import ScriptError
from vpnstack.packetdrill.parser import parse
from vpnstack.packetdrill.runner import run
from vpnstack.packetdrill.script import (
    ANY,
    Call,
    Code,
    Expect,
    Icmp,
    Inject,
    Name,
    Option,
    Quote,
    Shell,
    Struct,
    Tcp,
    Time,
    Udp,
)

SCRIPTS = Path(__file__).parents[3] / "packetdrill"
sys.path.append(str(Path(__file__).parents[3] / "fuzz"))


def packet(line: str, options: str = "") -> object:
    event = parse(f"{options}\n0 {line}").events[0]
    assert isinstance(event.action, Inject | Expect)
    return event.action.packet


def test_comments_and_options() -> None:
    script = parse("--tolerance_usecs=500\n--local_ip=192.168.0.9 // x\n/* y\n */ # z\n0 < udp (1)")
    assert script.options == {"tolerance_usecs": "500", "local_ip": "192.168.0.9"}
    assert script.events[0].line == 5


@pytest.mark.parametrize(
    ("line", "time"),
    [
        ("0 > udp (1)", Time(0.0)),
        ("1.5 > udp (1)", Time(1.5)),
        ("+.1 > udp (1)", Time(0.1, relative=True)),
        ("* > udp (1)", Time(None)),
        ("1~2 > udp (1)", Time(1.0, 2.0)),
        ("0~+.2 > udp (1)", Time(0.0, 0.2)),
        ("+.1~+.2 > udp (1)", Time(0.1, 0.2, relative=True)),
        ("+0...0.3 > udp (1)", Time(0.0, 0.3, relative=True)),
    ],
)
def test_times(line: str, time: Time) -> None:
    assert parse(line).events[0].time == time


def test_tcp() -> None:
    found = packet("> [ect0] SEW. 1:11(10) ack 5 win 7 <mss 1460,sackOK,TS val 1 ecr 2,wscale 7>")
    assert isinstance(found, Tcp)
    assert (found.flags, found.seq, found.length, found.ack, found.win) == (0xD2, 1, 10, 5, 7)
    assert found.info.ecn == 2
    assert found.options == (
        Option("mss", (1460,)), Option("sackOK"), Option("TS", (1, 2)), Option("wscale", (7,)),
    )  # fmt: skip


def test_tcp_any_options_and_sack() -> None:
    found = packet("> - 0:0(0) <...>")
    assert isinstance(found, Tcp)
    assert (found.flags, found.options, found.ack) == (0, None, None)
    found = packet("< . 1:1(0) ack 1 <nop,nop,sack 1:2 3:4,eol,kind 254 0xf989>")
    assert isinstance(found, Tcp)
    assert found.options is not None
    assert found.options[2] == Option("sack", (1, 2, 3, 4))
    assert found.options[-1] == Option("kind", (254, 0xF9, 0x89))


def test_icmp_with_the_quote_on_either_side() -> None:
    one = packet("< icmp unreachable frag_needed mtu 1200 [1:1001(1000)]")
    other = packet("< [1:1001(1000)] icmp unreachable frag_needed mtu 1200")
    assert one == other
    assert isinstance(one, Icmp)
    assert (one.type, one.code, one.value, one.quote) == (3, 4, 1200, Quote("tcp", 1, 1000))


def test_icmp_and_udp_of_ipv6() -> None:
    found = packet("< icmp packet_too_big mtu 1280 [udp (9)]", "--ip_version=ipv6")
    assert isinstance(found, Icmp)
    assert (found.type, found.quote) == (2, Quote("udp", 0, 9))
    assert isinstance(packet("> [ttl 3, dport 5] udp (100)"), Udp)


def test_calls() -> None:
    call = (
        parse(
            "+0...0.2 sendmsg(3, {msg_name(...)=..., msg_iov(1)=[{..., 9}]}, A|B) = -1 EAGAIN (x)"
        )
        .events[0]
        .action
    )
    assert isinstance(call, Call)
    assert (call.name, call.result, call.errno, call.until) == ("sendmsg", -1, "EAGAIN", 0.2)
    header = call.args[1]
    assert isinstance(header, Struct)
    assert header.members["msg_name"] is ANY
    call = parse('0 x("a\\n"..., [1], 0x10, 1.5, AF_INET) = ...').events[0].action
    assert isinstance(call, Call)
    assert call.args == ("a\n", (1,), 16, 1.5, Name("AF_INET"))


def test_code_and_shell() -> None:
    script = parse("`sysctl -w x=1`\n0 `true`\n0 %{ assert 1 == 1 }%")
    assert script.ignored == (Shell("sysctl -w x=1"), Shell("true"))
    assert script.events[1].action == Code(" assert 1 == 1 ", 3)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("0 < S 0:0(0)\nnonsense", "line 2: expected the time"),
        ("0 < S 0:5(0)", "expected 0:0(0), found end 5"),
        ("0 < X 0:0(0)", "expected flags"),
        ("0 < S 0:0(0) ack 1", "expected the flag '.'"),
        ("0 < . 0:0(0)", "expected 'ack'"),
        ("0 < S 0:0(0) <mss>", "expected 'integer'"),
        ("0 < S 0:0(0) <tfo 1>", "expected an option of"),
        ("0 < S 0:0(0) win 65536", "expected a number up to 65535"),
        ("0 < icmp nothing", "expected an ICMP type"),
        ("* < udp (1)", "expected '*' with '>' only"),
        ("0~1 close(3) = 0", "expected a range of times with '>' only"),
        ("0 close(3)", "expected '='"),
        ("0 f(" + "[" * 40, "expected at most 16 nested"),
        ("0 < udp (1", "expected ')'"),
        ("0 ~", "found the end"),
        ("0 f(1) = 0 (note", "expected ')'"),
        ("--ip_version=ipv5\n", "expected --ip_version"),
        ("0 \x00", "expected a token"),
        ("99999999 close(3) = 0", "expected a time up to"),
        ("0 f(" + "9" * 5000 + ") = 0", "expected a number up to"),
    ],
)
def test_refused(source: str, says: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(source)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "S 0:0(0) win 5 <mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 2>",
        "FP. 1:11(10) ack 7 win 3 urg 4 <nop,nop,sack 1:2 3:4>",
        "[ce] . 1:1(0) ack 1 <...>",
        "udp (100)",
        "icmp unreachable port_unreachable [udp (100)]",
        "icmp echo_request id 1 seq 2 (56)",
    ],
)
def test_written_as_read(line: str) -> None:
    found = packet(f"> {line}")
    assert text.line(found, 4) == line  # type: ignore[arg-type]


def test_fuzz_seeded() -> None:
    import fuzz_packetdrill

    rng = random.Random(9)
    corpus = [path.read_bytes() for path in sorted(SCRIPTS.rglob("*.pkt"))]
    assert len(corpus) > 60
    for _ in range(3000):
        fuzz_packetdrill.TestOneInput(fuzz_packetdrill.mutate(rng.choice(corpus), rng))


def test_fuzz_run_seeded() -> None:
    import fuzz_packetdrill

    rng = random.Random(5)
    corpus = [path.read_bytes() for path in sorted(SCRIPTS.rglob("*.pkt"))]
    for _ in range(500):
        data = fuzz_packetdrill.shuffle(rng.choice(corpus), rng.choice(corpus), rng)
        shown = run(data.decode("latin-1")).render()
        assert "the stack raised" not in shown, shown
