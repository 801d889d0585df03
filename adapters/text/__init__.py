"""The text adapter: plain text, code, logs, and the text column of a table."""

from .adapter import TextAdapter

__all__ = ["TextAdapter"]
