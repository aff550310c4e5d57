"""A page on this machine that shows what a model recommends."""
