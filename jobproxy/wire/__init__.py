"""Pure values that cross the wire; no Twisted."""
