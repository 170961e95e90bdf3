"""One pass through a network: what is called, what can be read on the way, what can be fed in."""
