"""Models that choose a reply among candidates."""
