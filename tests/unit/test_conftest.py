"""The helper that keeps a lane from looking green while it tests nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


def test_missing_skips_locally(
    require: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require("sh", "no-such-program")


def test_missing_fails_in_ci(require: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="/no/such/file does not exist; Python module"):
        require("/no/such/file", "module:no_such_module", "sh")


def test_present_passes(require: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require("sh", "/", "module:pytest")


def test_not_root(require: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not root"):
        require("root")
