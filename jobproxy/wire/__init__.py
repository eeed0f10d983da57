"""Values that cross the network, without Twisted."""
