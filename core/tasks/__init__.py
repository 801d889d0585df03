"""Tasks: what a model answers at the answer spans of held-out documents, beside baselines; metrics and retrieval."""
