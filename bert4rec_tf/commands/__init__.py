"""The commands. A module reads its flags and makes one call; the script of the same name in a checkout runs it."""
