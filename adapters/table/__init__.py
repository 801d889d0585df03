"""The table adapter: rows and series of csv, tsv, json lines and parquet files."""

from .adapter import TableAdapter

__all__ = ["TableAdapter"]
