"""The records between the pipeline and the model: their one schema, the writer, the manifest and the reader."""
