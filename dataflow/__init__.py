"""Git as a live, shared file tree, served over 9P."""

__all__: list[str] = []
