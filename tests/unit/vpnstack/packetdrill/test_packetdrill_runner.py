"""The interpreter must be able to fail: each kind of difference is found and shown."""

from __future__ import annotations

import pytest

from vpnstack.packetdrill.report import Outcome
from vpnstack.packetdrill.runner import run

PREAMBLE = """0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 bind(3, ..., ...) = 0
+0 listen(3, 1) = 0
+.1 < S 0:0(0) win 65535 <mss 1000>
+0 > S. 0:0(0) ack 1 <...>
+.1 < . 1:1(0) ack 1 win 65535
+0 accept(3, ..., ...) = 4
"""


def script(rest: str, options: str = "") -> Outcome:
    return run(options + PREAMBLE + rest, "x.pkt")


def fails(rest: str, says: str, options: str = "") -> Outcome:
    outcome = script(rest, options)
    assert not outcome.passed
    assert outcome.failure is not None
    assert says in outcome.render()
    return outcome


def test_passes() -> None:
    outcome = script("+0 write(4, ..., 100) = 100\n+0 > P. 1:101(100) ack 1\n")
    assert outcome.passed, outcome.render()
    assert outcome.events == 9


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ("P. 2:102(100) ack 1", "seq: expected 2, found 1"),
        ("P. 1:102(101) ack 1", "length: expected 101, found 100"),
        ("P. 1:101(100) ack 2", "ack: expected 2, found 1"),
        (". 1:101(100) ack 1", "flags: expected ., found P."),
        ("P. 1:101(100) ack 1 win 3", "win: expected 3, found"),
        ("P. 1:101(100) ack 1 urg 3", "urg: expected 3, found 0"),
        ("P. 1:101(100) ack 1 <mss 5>", "options: expected mss 5, found none"),
        ("[ect0] P. 1:101(100) ack 1", "ecn: expected 2, found 0"),
        ("[ttl 9] P. 1:101(100) ack 1", "ttl: expected 9, found 64"),
        ("[dport 9] P. 1:101(100) ack 1", "dport: expected 9, found 40000"),
        ("udp (100)", "protocol: expected udp, found tcp"),
    ],
)
def test_another_packet(expected: str, says: str) -> None:
    outcome = fails(f"+0 write(4, ..., 100) = 100\n+0 > {expected}\n", says)
    assert outcome.failure is not None
    assert outcome.failure.line == 9
    assert f"> {expected}"[:20] in outcome.failure.expected
    assert any("(this one)" in line for line in outcome.failure.recent)


def test_time_too_early_and_too_late() -> None:
    fails("+0 write(4, ..., 100) = 100\n+.1 > P. 1:101(100) ack 1\n", "time: expected 0.3")
    fails("+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 1\n+.2 > P. 1:10(9) ack 1\n", "nothing")


def test_tolerance() -> None:
    rest = "+0 write(4, ..., 9) = 9\n+.002 > P. 1:10(9) ack 1\n"
    assert script(rest).passed
    fails(rest, "time: expected", "--tolerance_usecs=1000\n")


def test_nothing_sent() -> None:
    fails("+0 > P. 1:101(100) ack 1\n", "the stack sent nothing")


def test_unexpected_packet() -> None:
    fails("+0 write(4, ..., 9) = 9\n+.1 %{ assert True }%\n", "the script does not expect")


def test_unexpected_packet_before_the_expected() -> None:
    fails("+0 < . 9:19(10) ack 1 win 9\n+.1 < . 1:9(8) ack 1 win 9\n+0 > . 1:1(0) ack 19\n",
          "the script does not expect")  # fmt: skip


def test_range() -> None:
    rest = "+0 < P. 1:9(8) ack 1 win 9\n+{} > . 1:1(0) ack 9\n"
    assert script(rest.format(".01~+.05")).passed
    fails(rest.format(".01~+.02"), "nothing")
    fails(rest.format(".045~+.06"), "time: expected")


def test_any_time() -> None:
    assert script("+0 < P. 1:9(8) ack 1 win 9\n* > . 1:1(0) ack 9\n").passed
    fails("* > . 1:1(0) ack 9\n", "the stack sent nothing")


def test_wrong_result() -> None:
    fails("+0 write(4, ..., 100) = 50\n", "found     write(...) = 100")
    fails("+0 close(9) = 0\n", "close(...) = -1 EBADF")
    fails("+0 close(9) = -1 EINVAL (x)\n", "close(...) = -1 EBADF")
    assert script("+0 close(9) = -1 EBADF (Bad file descriptor)\n").passed


def test_blocking_call() -> None:
    fails("+0 read(4, ..., 100) = 0\n", "the call blocks")
    fails("+0...0.5 read(4, ..., 100) = 0\n+9 %{ assert True }%\n", "still blocks")
    fails("+0...0.5 read(4, ..., 100) = 8\n+.1 < P. 1:9(8) ack 1 win 9\n", "at another time")
    fails("+0...0.1 read(4, ..., 100) = 7\n+.1 < P. 1:9(8) ack 1 win 9\n", "read(...) = 8")
    assert script("+0...0.1 read(4, ..., 100) = 8\n+.1 < P. 1:9(8) ack 1 win 9\n").passed
    assert script("+0...0.5 poll([{fd=4, events=POLLIN}], 1, 500) = 0\n").passed


def test_values_that_calls_give_back() -> None:
    fails("+0 getsockopt(4, SOL_SOCKET, SO_ERROR, [5], [4]) = 0\n", "option: expected 5, found 0")
    fails("+0 ioctl(4, SIOCINQ, [5]) = 0\n", "ioctl: expected 5, found 0")
    fails("+0 poll([{fd=4, events=POLLOUT, revents=POLLIN}], 1, 0) = 1\n", "revents: expected 1")


def test_assertion() -> None:
    outcome = fails("+0 %{ assert tcpi_snd_cwnd == 3, tcpi_snd_cwnd }%\n", "assertion failed: 10")
    assert "tcpi_snd_cwnd = 10" in outcome.render()


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("+0 frobnicate(3) = 0\n", "expected a call of"),
        ("+0 close() = 0\n", "expected other arguments for close"),
        ("+0 close(AF_NOTHING) = 0\n", "expected a known constant"),
        ("+0 %{ import os }%\n", "expected assert or print"),
        ("+0 %{ assert nothing == 1 }%\n", "expected a name of TCP_INFO"),
        ("+0 setsockopt(4, SOL_TCP, TCP_CONGESTION, \"nonesuch\", 8) = 0\n", "congestion control"),
        ("+0 < . 1:65500(65499) ack 1 win 5 <mss 1,mss 1,TS val 1 ecr 1,TS val 1 ecr 1,"
         "TS val 1 ecr 1>\n", "expected at most 40 octets"),
    ],
)  # fmt: skip
def test_broken_script(rest: str, says: str) -> None:
    outcome = fails(rest, says)
    assert outcome.broken


@pytest.mark.parametrize(
    "option", ["--nonesuch=1", "--mtu=abc", "--tcp_nonesuch=1", "--remote_ip=::1", "--gso=maybe"]
)
def test_broken_option(option: str) -> None:
    assert script("", option + "\n").broken


def test_options_in_order_only_when_asked() -> None:
    source = (
        "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n"
        "+0 listen(3, 1) = 0\n+0 < S 0:0(0) win 9 <mss 1000,sackOK>\n"
        "+0 > S. 0:0(0) ack 1 <sackOK,mss 1460>\n"
    )
    assert run(source).passed
    assert not run("--strict_options=1\n" + source).passed


def test_timestamp_tick() -> None:
    source = (
        "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n"
        "+0 listen(3, 1) = 0\n+0 < S 0:0(0) win 9 <mss 1000,TS val 1 ecr 0>\n"
        "+0 > S. 0:0(0) ack 1 <mss 1460,TS val 5 ecr 1>\n"
        "+1 > S. 0:0(0) ack 1 <mss 1460,TS val {} ecr 1>\n"
    )
    assert run("--tcp_ts_tick_usecs=1000\n" + source.format(1005)).passed
    assert run(source.format(6)).passed
    assert not run("--tcp_ts_tick_usecs=1000\n" + source.format(1105)).passed


def test_shell_is_not_run_and_said_so() -> None:
    outcome = run("`touch /nonexistent/x`\n0 `false`\n")
    assert outcome.passed
    assert outcome.notes == ("not run: `touch /nonexistent/x`", "not run: `false`")


def test_deterministic() -> None:
    rest = "+0 write(4, ..., 100) = 100\n+0 > P. 1:101(100) ack 1\n"
    assert script(rest) == script(rest)


def test_gso() -> None:
    rest = "+0 write(4, ..., 5000) = 5000\n+0 > P. 1:5001(5000) ack 1\n"
    assert script(rest, "--gso=1\n").passed
    fails(rest, "length: expected 5000, found 1000")
