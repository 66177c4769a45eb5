"""Models that write a reply."""
