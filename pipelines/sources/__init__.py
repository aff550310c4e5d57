"""Where events come from: files of any format, published datasets, a synthetic process."""
