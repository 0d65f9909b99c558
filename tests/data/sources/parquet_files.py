"""Parquet files of tests."""

import json

import pyarrow
import pyarrow.parquet

CAPTIONS = (("image", "image.bytes"), ("captions", "text"), ("image_id", "id"))


CONSTANTS = (("type", "caption"), ("dataset", "sbu"))


def write(path, rows, metadata=None, **options):
    table = pyarrow.Table.from_pylist(rows)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pyarrow.parquet.write_table(table, path, **options)
    return str(path)


def row(one, **more):
    image = {"bytes": one.image, "path": f"{one.number}.jpg"}
    return {"image": image, "id": one.number, "text": one.captions[0]} | more
