"""Sources of events: files of several formats, published datasets, a synthetic process."""
