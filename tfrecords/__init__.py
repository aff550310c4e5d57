"""The records between the pipeline and the model: configuration, schema, vocabulary, writer and manifest."""
