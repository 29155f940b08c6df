"""Lightweight machines as a library: virtio devices and engines driven from asyncio."""

__all__: list[str] = []
