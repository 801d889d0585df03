"""Everything that runs train.py and scores what it made."""
