"""Sources by the names of their formats, as a command line asks for them."""

import dataclasses
import inspect
import json
import pickle

import pytest

from ofa_jax.data.sources import formats, tsv_writer
from ofa_jax.data.sources.array_record import shard_name, write_shard
from ofa_jax.data.sources.formats import FORMATS, FormatError
from ofa_jax.data.sources.tsv import TsvSource
from tests.data.sources.checks import examples_of
from tests.data.sources.photographs import annotated, write_pictures


@pytest.mark.parametrize("name", FORMATS)
def test_arguments_are_those_of_the_source(name):
    make = FORMATS[name].make
    fields = {field.name: field for field in dataclasses.fields(make)}
    documented = "".join(inspect.getdoc(one) or "" for one in make.__mro__)
    assert set(FORMATS[name].arguments) == set(fields)
    for argument, about in FORMATS[name].arguments.items():
        optional = fields[argument].default is not dataclasses.MISSING
        assert about.required != optional, argument
        assert f"{argument}:" in documented, argument
    assert f"{name}: {FORMATS[name].about}" in formats.manual()


def test_sources_from_texts(tmp_path):
    images = write_pictures(tmp_path / "train2014")
    one = annotated()[0]
    (tmp_path / "captions_train.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": f"{one.number}.jpg"}],
                "annotations": [{"image_id": 1, "caption": "a temple"}],
            }
        )
    )
    annotations = str(tmp_path / "captions_{split}.json")
    arguments = {"annotations": annotations, "images": images, "dataset": "coco"}
    [found] = examples_of(formats.source("coco_captions", arguments))
    assert (found["caption"], found["dataset"]) == ("a temple", "coco")

    path = tmp_path / "rows.tsv"
    tsv_writer.write(path, ["1\tone text"])
    arguments = {"paths": f"train={path} validation=x", "layout": "text"}
    source = formats.source("tsv", arguments)
    assert source == TsvSource((("train", str(path)), ("validation", "x")), "text")
    [found] = examples_of(source)
    write_shard(tmp_path / "shards" / shard_name("train", 0, 1), [found])
    prepared = formats.source("prepared", {"directory": str(tmp_path / "shards"), "types": "text"})
    assert examples_of(prepared) == [found]


def test_every_kind_of_value():
    parquet = formats.source(
        "parquet",
        {
            "paths": "{DATA_DIR}/*.parquet",
            "columns": "image=image.bytes, captions=text",
            "constants": "type=caption",
        },
    )
    assert parquet.columns == (("image", "image.bytes"), ("captions", "text"))
    gqa = formats.source("gqa", {"questions": "q", "images": "i", "full_answers": "True"})
    assert (gqa.full_answers, gqa.balanced_only) == (True, False)
    tsv = formats.source("tsv", {"paths": "x", "layout": "ocr", "columns": "image,_,text"})
    assert tsv.columns == ("image", "_", "text")
    for source in (parquet, gqa, tsv):
        assert pickle.loads(pickle.dumps(source)) == source
        assert isinstance(hash(source), int)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("coco_caption", {}, "unknown format 'coco_caption'; did you mean coco_captions"),
        ("gqa", {"question": "x"}, "'gqa' has no argument 'question'; did you mean questions"),
        ("gqa", {"questions": "x"}, r"format 'gqa' needs images \(directory of the images"),
        (
            "gqa",
            {"questions": "x", "images": "y", "full_answers": "1"},
            "argument 'full_answers': '1' is neither true nor false",
        ),
        (
            "parquet",
            {"paths": "x", "columns": "text", "constants": "type=text"},
            "argument 'columns': 'text' is not NAME=VALUE",
        ),
        ("tsv", {"paths": "x", "layout": "caption"}, "format 'tsv': unknown TSV layout 'caption'"),
        ("text", {"paths": "a=b c"}, "argument 'paths': .*'c' is not SPLIT=PATH"),
    ],
)
def test_mistakes_name_what_is_right(name, arguments, message):
    with pytest.raises(FormatError, match=message):
        formats.source(name, arguments)
