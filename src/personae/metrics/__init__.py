"""Measures of selected replies, and how far to trust a difference between two of them."""
