"""Public transport: logs, realtime snapshots, timetables, and the synthetic city of the demo."""

from .adapter import TransitAdapter

__all__ = ["TransitAdapter"]
