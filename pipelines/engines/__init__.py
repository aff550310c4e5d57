"""What sorts events into the sequences of users: DuckDB on one machine, or Spark."""
