"""Machine files: what they say, and which line is wrong."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hypervisor.cli import main
from hypervisor.commands.config import FileError, find, read
from hypervisor.errors import UsageError

ROOT = Path(__file__).parents[4]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "machines.toml"
    path.write_text(text)
    return path


def test_one_machine(tmp_path: Path) -> None:
    (made,) = read(
        written(tmp_path, 'name = "web"\nkernel = "vmlinuz"\ncpus = 2\nmemory = 512\nnet = true\n')
    )
    assert (made.name, made.kernel, made.cpus) == ("web", tmp_path / "vmlinuz", 2)
    assert (made.memory, made.net, made.networked) == (512, "", True)


def test_several_machines_share_what_stands_above(tmp_path: Path) -> None:
    text = """
memory = "512M"
[machine.web]
publish = ["8080:80"]
[machine.db]
memory = "1G"
console-log = "db.log"
"""
    web, db = read(written(tmp_path, text))
    assert (web.name, web.memory, web.publish, web.networked) == ("web", "512M", ("8080:80",), True)
    assert (db.name, db.memory, db.networked) == ("db", "1G", False)
    assert db.console_log == tmp_path / "db.log"
    assert db.directory("console_log") == tmp_path


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("cpus = 2\nmemry = '1G'\n", 2, "unknown key 'memry': did you mean memory?"),
        ("xyzzy = 1\n", 1, "unknown key 'xyzzy': expected one of acpi, cmdline"),
        ("cpus = 2\ncpus = 3\n", 2, "Cannot overwrite a value"),
        ("a = \n", 1, "Invalid value"),
        ("\n\ncpus = '2'\n", 3, "cpus is '2', expected a whole number"),
        ("cpus = true\n", 1, "cpus is True, expected a whole number"),
        ("cpus = 99\n", 1, "cpus is 99, expected 1 to 16"),
        ("kernel = 1\n", 1, "kernel is 1, expected a path"),
        ("acpi = 'no'\n", 1, "acpi is 'no', expected true or false"),
        ("publish = [80]\n", 1, "publish is [80], expected a list of strings"),
        ("memory = 1.5\n", 1, "memory is 1.5, expected a size"),
        ("memory = '1M'\n", 1, "memory is '1M', expected whole MiB"),
        ("uuid = 'x'\n", 1, "the UUID 'x', expected 32"),
        ("net = 1\n", 1, "net is 1, expected true, false"),
        ("net = '10.0.0.0'\n", 1, "expected ADDRESS/PREFIX"),
        ("engine = 'bochs'\n", 1, "engine is 'bochs', expected one of auto, kvm, qemu"),
        ("serial = 'com2,stdio'\n", 1, "expected com1"),
        ("publish = '80x'\n", 1, "cannot publish '80x'"),
        ("cpus = 1\n[machine.web]\n[machine.db]\ncpu = 2\n", 4, "did you mean cpus?"),
        ("memory = '1G'\n[machine.'w']\n\nnet = 3\n", 4, "net is 3"),
        ("[machine.web]\n[machine.db]\nmemory = '2'\n", 3, "memory is '2'"),
        ("memory = '2'\n[machine.web]\n", 1, "memory is '2'"),
        ("machine = 3\n", 1, "expected tables such as [machine.web]"),
        ("[machine]\nweb = 3\n", 2, "expected a table [machine.web]"),
        ("name = 'x'\n[machine.web]\n", 1, "names are their tables'"),
    ],
)
def test_what_is_wrong_and_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(FileError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(tmp_path / "binary.toml")


def test_find_sees_tables_quotes_and_dots() -> None:
    text = 'a = 1\n[machine."web"]  # a comment\n"a" = 2\n[machine.db]\na.b = 3\n'
    assert find(text, "", "a") == 1
    assert find(text, "machine.web", "a") == 3
    assert find(text, "machine.db", "a") == 5
    assert find(text, "machine.db", "zz") == 4
    assert find(text, "machine.none", "a") == 0


def test_check_and_print(tmp_path: Path) -> None:
    path = written(tmp_path, "[machine.web]\nnet = true\ncpus = 2\n[machine.db]\n")
    result = CliRunner().invoke(main, ["config", str(path)])
    assert (result.exit_code, result.output) == (0, f"{path}: 2 machines: web, db\n")
    result = CliRunner().invoke(main, ["config", "--print", str(path)])
    assert json.loads(result.output) == [{"name": "web", "cpus": 2, "net": ""}, {"name": "db"}]


def test_the_example_is_right() -> None:
    names = [each.name for each in read(ROOT / "examples" / "machines.toml")]
    assert names == ["web", "client"]
