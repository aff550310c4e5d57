"""Serves a trained model: the SavedModel, its versions, and the quality gate before a new version."""
