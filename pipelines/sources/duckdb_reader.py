"""Text logs as DuckDB reads them: fast, and right where a file is plain and what comes of it is checked."""

from pipelines.sources.line_reader import BLANKS, FIELDS, ROW_PATTERNS, ROW_RULES, count_blank_lines
from pipelines.sources.log_source import DELIMITERS, MAX_LINE_BYTES, Layout, quoted, quoted_path

# Values of JSON that would come in other words than the file has, or that are no strings and no numbers.
_REWRITTEN = r"-?[0-9]*[.eE][-+.eE0-9]*|NaN|-?Inf.*|-?inf.*|\{.*|\[.*"
_COMPRESSIONS = {"": "uncompressed", "gzip": "gzip", "zstd": "zstd"}  # that the engine reads, and their names there


def is_safe_for_duckdb(layout: Layout) -> bool:
    """Whether the engine may be trusted with the file, as far as can be said before it is read."""
    if layout.format in ("parquet", "user_items"):
        return False  # see parquet_reader.py; a row of user_items is several events
    if layout.file.compression not in _COMPRESSIONS or layout.file.encoding not in ("utf-8", ""):
        return False
    if layout.format in DELIMITERS:
        # With quotes at the ends of fields alone, and one at both ends only where a field is a quote and a delimiter.
        delimiter, quoted_fields = layout.dialect
        plain = layout.file.plain and delimiter.isascii()
        return plain and (not quoted_fields or layout.file.quotes == layout.file.field_quotes)
    return layout.file.plain


def rows_sql(layout: Layout) -> str:
    """SQL of a text file's rows.

    Columns: position and line (both counted by rows), user_id, item_id, timestamp and rating (text, NULL where there is
    none), fault (why a row is none of this format, or not surely one), text (NULL).
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
        # By place: the engine takes no name that is empty, nor two that differ in case alone.
        indices = [str(index) for index in range(len(layout.header))]
        columns = ", ".join(f"'{index}': 'VARCHAR'" for index in indices)
        fields |= {name: _column(str(layout.header.index(column))) for name, column in layout.columns.items()}
        with_quotes = layout.dialect.quoted and layout.file.quotes > 0
        delimiter, quote = quoted(layout.dialect.delimiter), quoted('"' if with_quotes else "")
        options += f", delim={delimiter}, quote={quote}, escape={quote}, header={layout.has_header}"
        # The engine takes a field for good that has a quote at its end alone.
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
        fields |= {name: f"({parts})[{int(place) + 1}]" for name, place in layout.columns.items()}
        good = f"len({parts}) = 4"
    return _select(lines, fields, f"CASE WHEN NOT {good} THEN {quoted(ROW_RULES[layout.format])} END", blank)


def row_count_matches(layout: Layout, rows: int) -> bool:
    """Whether so many rows are all that a file has: the engine passes over some malformed ones without a word."""
    file = layout.file
    if layout.format in DELIMITERS and file.delimiters != (rows + layout.has_header) * (len(layout.header) - 1):
        return False  # it takes a row that ends in one delimiter too many
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
