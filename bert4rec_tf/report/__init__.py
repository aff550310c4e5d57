"""One HTML page about an evaluated model."""
