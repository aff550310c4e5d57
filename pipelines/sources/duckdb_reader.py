"""Reads text logs with DuckDB: fast, and correct for plain files whose result is checked."""

from pipelines.sources.line_reader import BLANKS, FIELDS, ROW_PATTERNS, ROW_RULES, count_blank_lines
from pipelines.sources.log_source import DELIMITERS, MAX_LINE_BYTES, Layout, quoted, quoted_path

# JSON values that DuckDB would rewrite, or that are neither strings nor numbers.
_REWRITTEN = r"-?[0-9]*[.eE][-+.eE0-9]*|NaN|-?Inf.*|-?inf.*|\{.*|\[.*"
_COMPRESSIONS = {"": "uncompressed", "gzip": "gzip", "zstd": "zstd"}  # those that DuckDB reads, with DuckDB's names


def is_safe_for_duckdb(layout: Layout) -> bool:
    """Whether DuckDB can be expected to read the file correctly, judged before it is read."""
    if layout.format in ("parquet", "user_items"):
        return False  # see parquet_reader.py; a row of user_items is several events
    if layout.file.compression not in _COMPRESSIONS or layout.file.encoding not in ("utf-8", ""):
        return False
    if layout.format in DELIMITERS:
        # Quotes may only be at the ends of fields. A field of a quote and a delimiter would count at both ends.
        delimiter, quoted_fields = layout.dialect
        plain = layout.file.plain and delimiter.isascii()
        return plain and (not quoted_fields or layout.file.quotes == layout.file.field_quotes)
    return layout.file.plain


def rows_sql(layout: Layout) -> str:
    """SQL for the rows of a text file.

    Columns: position and line (both count rows), user_id, item_id, timestamp and rating (text, NULL if missing), fault
    (why a row does not have this format, or may not have it), text (NULL).
    """
    path = quoted_path(layout.file.path)
    compression = quoted(_COMPRESSIONS[layout.file.compression])
    fields = {name: _column(layout.columns[name]) if name in layout.columns else "NULL" for name in FIELDS}
    fields |= {name: "NULL" if value is None else quoted(value) for name, value in layout.partition.items()}
    if layout.format == "jsonl":
        names = dict.fromkeys([*layout.columns.values(), *layout.partition_columns])
        columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in names)
        uncertain = [f"regexp_full_match({fields[name]}, {quoted(_REWRITTEN)})" for name in layout.columns] + [
            f"{_column(name)} IS NOT NULL" for name in layout.partition_columns
        ]
        return _select(
            f"read_json({path}, format='newline_delimited', columns={{{columns}}}, compression={compression}, "
            f"maximum_object_size={MAX_LINE_BYTES}, hive_partitioning=false)",
            fields,
            fault=f"CASE WHEN {' OR '.join(uncertain)} THEN 'may stand otherwise in the file' END",
        )
    options = f"auto_detect=false, hive_partitioning=false, compression={compression}, max_line_size={MAX_LINE_BYTES}"
    if layout.format in DELIMITERS:
        # By index: DuckDB accepts no empty name, and no two names that differ only in case.
        indices = [str(index) for index in range(len(layout.header))]
        columns = ", ".join(f"'{index}': 'VARCHAR'" for index in indices)
        fields |= {name: _column(str(layout.header.index(column))) for name, column in layout.columns.items()}
        with_quotes = layout.dialect.quoted and layout.file.quotes > 0
        delimiter, quote = quoted(layout.dialect.delimiter), quoted('"' if with_quotes else "")
        options += f", delim={delimiter}, quote={quote}, escape={quote}, header={layout.has_header}"
        # DuckDB accepts a field that has a quote only at its end.
        stray = f"contains(concat_ws('', {', '.join(map(_column, indices))}), '\"')" if with_quotes else "false"
        fault = f"CASE WHEN {stray} THEN 'has a stray quote' END"
        return _select(f"read_csv({path}, columns={{{columns}}}, {options})", fields, fault)
    # Whole lines: \\x01 is in no plain file.
    options += ", delim='\x01', quote='', escape='', header=false, strict_mode=false"
    lines = f"read_csv({path}, columns={{'line': 'VARCHAR'}}, {options})"
    blank = f"line IS NULL OR regexp_full_match(line, {quoted(BLANKS)})"
    if layout.format in ROW_PATTERNS:
        pattern = ROW_PATTERNS[layout.format]
        for name, index in layout.columns.items():
            fields[name] = f"nullif(regexp_extract(line, {quoted(f'^{pattern}$')}, {int(index) + 1}), '')"
        good = f"regexp_full_match(line, {quoted(pattern)})"
    else:
        parts = "string_split(replace(line, '::', chr(9)), chr(9))"
        fields |= {name: f"({parts})[{int(index) + 1}]" for name, index in layout.columns.items()}
        good = f"len({parts}) = 4"
    return _select(lines, fields, f"CASE WHEN NOT {good} THEN {quoted(ROW_RULES[layout.format])} END", blank)


def row_count_matches(layout: Layout, rows: int) -> bool:
    """Whether a file has exactly `rows` rows: DuckDB silently skips some malformed ones."""
    file = layout.file
    if layout.format in DELIMITERS:
        delimiters = file.delimiters - (file.quoted_delimiters if layout.dialect.quoted and file.even_quotes else 0)
        if delimiters != (rows + layout.has_header) * (len(layout.header) - 1):
            return False  # DuckDB accepts a row that ends in an extra delimiter
    return rows + layout.has_header == file.lines or rows + layout.has_header == file.lines - count_blank_lines(file)


def _select(source: str, fields: dict[str, str], fault: str = "NULL", blank: str = "false") -> str:
    user, item, timestamp, rating = (f"{field}::VARCHAR" for field in fields.values())
    return f"""(SELECT * EXCLUDE blank FROM
        (SELECT row_number() OVER () AS position, position AS line, {user} AS user_id, {item} AS item_id,
         {timestamp} AS timestamp, {rating} AS rating, ({fault})::VARCHAR AS fault, NULL::VARCHAR AS text,
         ({blank}) AS blank FROM {source})
        WHERE NOT blank)"""


def _column(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
