"""examples/ci/ci.sh end to end: real pushes, real builds, killed in the middle, read by plain git.

Builds say where they are through FIFOs: opening one waits until the other side is there, so nothing
here waits for time to pass.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuse_mount import git, mounting

SCRIPT = Path(__file__).parents[2] / "examples" / "ci" / "ci.sh"


@pytest.fixture(autouse=True)
def _needs(require: Callable[..., None]) -> None:
    require("/dev/fuse", "fusermount3", "git")


class Project:
    """A repository that is mounted, a clone of it, and CI on its branch main."""

    def __init__(self, where: Path) -> None:
        self.repo, self.db, self.clone = where / "r.git", where / "db", where / "clone"
        self.state = where / "state"
        self.state.mkdir()
        subprocess.run(["git", "clone", "-q", self.repo, self.clone], check=True, stderr=-3)
        git(self.clone, "checkout", "-q", "-b", "main")

    def push(self, *builds: str) -> list[str]:
        """Push commits, each with a build script of its own; return their ids."""
        made = []
        for text in builds:
            (self.clone / "build.sh").write_text(text)
            git(self.clone, "add", "-A")
            git(self.clone, "commit", "-q", "-m", "change")
            made.append(git(self.clone, "rev-parse", "HEAD"))
        git(self.clone, "push", "-q", "origin", "main")
        return made

    @contextlib.contextmanager
    def ci(self, limit: int = 60) -> Iterator[subprocess.Popen[str]]:
        """Run the script for the block, then end it as a power cut would."""
        words = ["sh", str(SCRIPT), str(self.db), "main", "sh", "build.sh"]
        environment = {**os.environ, "LIMIT": str(limit), "STATE": str(self.state)}
        child = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()

    def result(self, commit: str) -> tuple[str, str]:
        """Return verdict and log of a commit by plain git; checks what they hang on."""
        branch = f"ci/{commit}"
        assert git(self.repo, "rev-parse", f"{branch}^") == commit
        verdict = git(self.repo, "show", f"{branch}:ci.verdict")
        assert git(self.repo, "log", "-1", "--format=%s", branch) == verdict
        return verdict, git(self.repo, "show", f"{branch}:ci.log")

    def results(self) -> set[str]:
        """Return the branches of results with their heads."""
        lines = git(self.repo, "for-each-ref", "refs/heads/ci").splitlines()
        return {line for line in lines if "ci/seen" not in line}

    def fifo(self, name: str) -> Path:
        """Make a FIFO that builds find below $STATE."""
        os.mkfifo(self.state / name)
        return self.state / name


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "r.git"], check=True)
    with mounting(tmp_path / "r.git", tmp_path / "db"):
        yield Project(tmp_path)


def verdicts(ci: subprocess.Popen[str], count: int) -> list[str]:
    """Read what the script says of the next commits."""
    assert ci.stdout is not None
    return [ci.stdout.readline().strip() for _ in range(count)]


GOOD = "echo built; echo made > artefact\n"
BAD = "echo broken >&2; exit 3\n"
HANGS = "echo hangs; exec sleep 1000\n"


def test_good_failing_and_hanging_builds(project: Project) -> None:
    commits = project.push(GOOD)
    with project.ci(limit=1) as ci:
        assert verdicts(ci, 1) == [f"{commits[0]} PASSED"]
        commits += project.push(BAD, HANGS, GOOD)  # one push: head.live tells only the last
        assert verdicts(ci, 3) == [
            f"{commits[1]} FAILED",
            f"{commits[2]} TIMEOUT",
            f"{commits[3]} PASSED",
        ]
    assert project.result(commits[0]) == ("PASSED", "built")
    assert project.result(commits[1]) == ("FAILED", "broken")
    assert project.result(commits[2]) == ("TIMEOUT", "hangs")
    assert git(project.repo, "show", f"ci/{commits[3]}:artefact") == "made"
    git(project.repo, "fsck", "--strict")


def test_the_log_can_be_read_while_it_grows(project: Project) -> None:
    gate = project.fifo("gate")
    (commit,) = project.push(f"echo first; cat {gate}; echo last\n")
    log = project.db / "branch" / "ci" / commit / "transactions" / "build" / "rw" / "ci.log"
    with project.ci() as ci:
        with gate.open("w") as words:  # opens when the build is there
            assert (
                subprocess.run(["cat", log], capture_output=True, check=True).stdout == b"first\n"
            )
            words.write("second\n")
        assert verdicts(ci, 1) == [f"{commit} PASSED"]
    assert project.result(commit) == ("PASSED", "first\nsecond\nlast")


def test_commits_that_come_by_a_merge_are_built(project: Project) -> None:
    start = project.push(GOOD)
    with project.ci() as ci:
        assert verdicts(ci, 1) == [f"{start[0]} PASSED"]
    git(project.clone, "checkout", "-q", "-b", "side")
    (project.clone / "side").write_text("x")
    git(project.clone, "add", "-A")
    git(project.clone, "commit", "-q", "-m", "side")
    side = git(project.clone, "rev-parse", "HEAD")
    git(project.clone, "checkout", "-q", "main")
    (project.clone / "build.sh").write_text(BAD)
    git(project.clone, "commit", "-q", "-a", "-m", "own")
    own = git(project.clone, "rev-parse", "HEAD")
    git(project.clone, "merge", "-q", "-m", "merge", "side")
    merge = git(project.clone, "rev-parse", "HEAD")
    git(project.clone, "push", "-q", "origin", "main")
    with project.ci() as ci:
        told = verdicts(ci, 3)
    assert sorted(told[:2]) == sorted([f"{side} PASSED", f"{own} FAILED"])
    assert told[2] == f"{merge} FAILED"
    assert len(project.results()) == 4


RUNS = "echo run >> $STATE/runs; n=$(wc -l < $STATE/runs); cat $STATE/gate.$n; echo end $n\n"


def test_killed_in_the_middle_and_started_again(project: Project) -> None:
    """No half result, no commit lost that came while it was down, nothing built twice."""
    first, second = project.fifo("gate.1"), project.fifo("gate.2")
    commits = project.push(RUNS)
    with project.ci() as ci:
        orphan = first.open("w")  # the build runs, and goes on when its script is gone
        ci.kill()
        ci.wait()
    assert git(project.repo, "branch", "--list", f"ci/{commits[0]}") == ""
    commits += project.push(GOOD, BAD)
    with project.ci() as ci:
        with second.open("w"):
            orphan.close()  # writes to the log of a transaction that was closed
        assert verdicts(ci, 3) == [
            f"{commits[0]} PASSED",
            f"{commits[1]} PASSED",
            f"{commits[2]} FAILED",
        ]
    assert project.result(commits[0]) == ("PASSED", "end 2")
    results = project.results()
    with project.ci() as ci:
        commits += project.push(GOOD)
        assert verdicts(ci, 1) == [f"{commits[3]} PASSED"]
    assert (project.state / "runs").read_text() == "run\n" * 2
    assert project.results() > results
    git(project.repo, "fsck", "--strict")


def test_it_is_short_and_plain() -> None:
    """Under 50 lines, and nothing that only bash knows."""
    assert len(SCRIPT.read_text().splitlines()) < 50
    subprocess.run(["sh", "-n", SCRIPT], check=True)
