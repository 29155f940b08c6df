"""Prometheus' page about a server; needs prometheus-client (the extra `metrics`)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..aio.server import Server
from ..branch.repository import Repository


class Collector:
    """Reads the counters when the page is asked for; nothing is counted twice."""

    def __init__(self, server: Server, repo: Repository) -> None:
        self._server = server
        self._repo = repo

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        found = self._server.statistics()
        connections = "9P connections that are open"
        yield GaugeMetricFamily("dataflow_connections", connections, value=found.connections)
        for name in ("accepted", "rejected", "broken"):
            count = getattr(found, name)
            yield CounterMetricFamily(f"dataflow_connections_{name}", "9P connections", value=count)
        for name in found.traffic.__slots__:
            count = getattr(found.traffic, name)
            yield CounterMetricFamily(f"dataflow_9p_{name}", "of all 9P sessions", value=count)
        yield from self._pushes()

    def _pushes(self) -> Iterator[Metric]:
        if self._repo.auto_push is None:
            return
        found = self._repo.auto_push.statistics()
        for name in ("pushes", "branches", "failures", "refused"):
            count = getattr(found, name)
            yield CounterMetricFamily(f"dataflow_auto_push_{name}", "auto-push", value=count)
        waiting = "branches not yet pushed"
        yield GaugeMetricFamily("dataflow_auto_push_waiting", waiting, value=found.waiting)


class Page:
    """The HTTP server, in a thread of its own, on loopback."""

    def __init__(self, server: Server, repo: Repository, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(Collector(server, repo))
        self._httpd, self._thread = start_http_server(port, "127.0.0.1", registry)
        self.port = self._httpd.server_port

    def close(self) -> None:
        """Stop."""
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()
