"""The research loop: proposers, edits, the gate, the journal, the campaign."""
