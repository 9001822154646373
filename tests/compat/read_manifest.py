"""Prints the rows of a manifest as DuckDB reads them, as a JSON list of objects; lists as lists, binary values in hex.

usage: read_manifest.py FILE.parquet [SQL]

SQL, if given, is asked instead of all rows; in it, `manifest` names the file's rows.
"""

import json
import sys

import duckdb


def plain(value):
    """Returns what JSON lacks in a form that it has."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return str(value)


def main(path, sql="select * from manifest"):
    connection = duckdb.connect()
    literal = "'" + path.replace("'", "''") + "'"
    connection.execute(f"create view manifest as select * from {literal}")
    answer = connection.execute(sql)
    names = [column[0] for column in answer.description]
    rows = [dict(zip(names, row)) for row in answer.fetchall()]
    json.dump(rows, sys.stdout, default=plain)
    print()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip())
    main(*sys.argv[1:])
