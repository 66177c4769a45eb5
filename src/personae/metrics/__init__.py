"""Measures of selected and of generated replies, and how far to trust a difference between two of them."""
