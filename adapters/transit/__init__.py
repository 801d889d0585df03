"""Public transport: incident logs, arrival logs, and the synthetic city of the demo."""

from .adapter import TransitAdapter

__all__ = ["TransitAdapter"]
