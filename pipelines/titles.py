"""Titles of items, where somebody has them: they go into the vocabulary and change nothing else."""

import csv
import pathlib

from bert4rec_tf.errors import InputError


def read_titles(path: str | None) -> dict[str, str]:
    """Reads a CSV file (or TSV, by its name) with the columns `item_id` and `title`, in UTF-8.

    Returns:
        Title by raw item id; empty where `path` is None. Of several rows of one item the last counts.

    Raises:
        InputError: the file cannot be read, or lacks a column or an item id.
    """
    if path is None:
        return {}
    try:
        with pathlib.Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t" if path.endswith(".tsv") else ",", strict=True)
            if not {"item_id", "title"} <= set(rows.fieldnames or ()):
                raise InputError(
                    f"--item_titles must have the columns item_id and title. Received: {path}: {rows.fieldnames}"
                )
            titles = {}
            for row in rows:
                if not row["item_id"]:
                    raise InputError(f"Each title needs an item_id. Received: {path}, line {rows.line_num}: {row}")
                if row["title"]:
                    titles[row["item_id"]] = row["title"]
            return titles
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--item_titles must be a readable CSV or TSV file in UTF-8. Received: {path} ({error})"
        ) from None
