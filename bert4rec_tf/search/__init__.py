"""Searches for settings that train a better model, on the validation split alone."""
