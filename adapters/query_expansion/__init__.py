"""Query expansion: pairs of a query and its expansion, from search logs, rewriting sets and qmd's files."""

from .adapter import QueryExpansionAdapter

__all__ = ["QueryExpansionAdapter"]
