"""Prints the documents of a token file as other programs read them: a JSON object of reader to [id, n_tokens, tokens].

usage: read_tokens.py FILE.parquet READER...

A reader is `pyarrow`, `duckdb` or `polars`; its package must be there.
"""

import json
import sys


def pyarrow(path):
    """Reads by row groups, and tells the types."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    groups = [file.read_row_group(i).to_pylist() for i in range(file.num_row_groups)]
    assert parquet.read_table(path).to_pylist() == sum(groups, [])
    assert str(file.schema_arrow.field("tokens").type) in (
        "list<element: uint16 not null>",
        "list<element: uint32 not null>",
    ), file.schema_arrow
    return [[row["id"], row["n_tokens"], row["tokens"]] for group in groups for row in group]


def duckdb(path):
    """Reads all columns."""
    import duckdb

    literal = "'" + path.replace("'", "''") + "'"
    return duckdb.sql(f"select id, n_tokens, tokens from {literal}").fetchall()


def polars(path):
    """Reads all columns."""
    import polars

    frame = polars.read_parquet(path)
    return [[row["id"], row["n_tokens"], row["tokens"]] for row in frame.iter_rows(named=True)]


READERS = {"pyarrow": pyarrow, "duckdb": duckdb, "polars": polars}


def main(path, *readers):
    json.dump({reader: READERS[reader](path) for reader in readers}, sys.stdout)
    print()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    main(*sys.argv[1:])
