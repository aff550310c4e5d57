"""Connections to DuckDB."""

import pathlib
from typing import Any

import duckdb
import pytest

from pipelines.engines.duckdb_connection import connect


class WithoutWidgets:
    """A connection as in a notebook without ipywidgets, where DuckDB refuses its progress bar."""

    def __init__(self) -> None:
        self.connection = duckdb.connect(":memory:")

    def execute(self, query: str, *parameters: Any) -> duckdb.DuckDBPyConnection:
        if "progress_bar" in query:
            raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
        return self.connection.execute(query, *parameters)


def test_a_notebook_without_widgets_can_connect(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WithoutWidgets()
    monkeypatch.setattr(duckdb, "connect", lambda: made)
    assert connect(tmp_path, "1GB").execute("SELECT 1").fetchall() == [(1,)]
    assert made.connection.query_progress() == -1, "the share of a query that is done is unknown"
