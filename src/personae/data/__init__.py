"""Corpora: reading and writing dialogues, candidates, splits, and what is known of each published file."""
