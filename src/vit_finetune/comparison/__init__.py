"""Runs in git: their predictions, what changed between two, the images of their test split."""
