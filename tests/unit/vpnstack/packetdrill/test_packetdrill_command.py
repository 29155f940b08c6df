"""The command and the pytest plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vpnstack.packetdrill.command import packetdrill

pytest_plugins = ["pytester"]

GOOD = "0 < icmp echo_request id 1 seq 1 (8)\n0 > icmp echo_reply id 1 seq 1 (8)\n"
BAD = GOOD.replace("seq 1 (8)\n0 >", "seq 2 (8)\n0 >")


def test_exit_codes(tmp_path: Path) -> None:
    for name, source, code in (("a", GOOD, 0), ("b", BAD, 1), ("c", "nonsense", 2)):
        path = tmp_path / f"{name}.pkt"
        path.write_text(source)
        result = CliRunner().invoke(packetdrill, [str(path)])
        assert result.exit_code == code, result.output
    assert CliRunner().invoke(packetdrill, [str(tmp_path)]).exit_code == 2


def test_output(tmp_path: Path) -> None:
    path = tmp_path / "b.pkt"
    path.write_text(BAD)
    result = CliRunner().invoke(packetdrill, ["-v", str(path)])
    assert f"{path}:2: the stack sent another packet" in result.output
    assert "differs   seq: expected 1, found 2" in result.output
    result = CliRunner().invoke(packetdrill, ["--json", str(path)])
    (found,) = json.loads(result.output)
    assert found["passed"] is False
    assert found["failure"]["line"] == 2
    assert found["failure"]["reasons"] == ["seq: expected 1, found 2"]


def test_option_overrides(tmp_path: Path) -> None:
    path = tmp_path / "a.pkt"
    path.write_text(GOOD)
    result = CliRunner().invoke(packetdrill, ["-o", "ip_version=ipv6", "-v", str(path)])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(packetdrill, ["-o", "ip_version", str(path)]).exit_code == 2
    assert CliRunner().invoke(packetdrill, ["-o", "no=1", str(path)]).exit_code == 2


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pkt"
    path.write_bytes(b"\xff\xfe\x00")
    assert CliRunner().invoke(packetdrill, [str(path)]).exit_code == 2


def test_collected_by_pytest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from vpnstack.packetdrill.collector import pytest_collect_file\n")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (pytester.path / "good.pkt").write_text(GOOD)
    (pytester.path / "bad.pkt").write_text(BAD)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*differs*seq: expected 1, found 2*"])
