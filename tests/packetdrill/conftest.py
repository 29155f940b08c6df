"""Collects the scripts; those under `pending` show faults that are not mended yet."""

from vpnstack.packetdrill.collector import pytest_collect_file

__all__ = ["pytest_collect_file"]

collect_ignore = ["pending"]
