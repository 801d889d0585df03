"""Compares proposers at equal training seconds: recorded tables, surrogates, searches, paired tests."""
