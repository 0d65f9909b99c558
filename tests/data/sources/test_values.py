"""Fields of annotation files: texts, identifiers, flags, and what says nothing."""

import numpy as np
import pytest

from ofa_jax.data.sources.annotated_images import Unique
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.values import flag, identifier, is_blank, number, optional_text, text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a bus ", "a bus "),
        ("None", "None"),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "café"),
        (7, "7"),
        (7.0, "7"),
        (np.float32(2.5), "2.5"),
        (np.int64(3), "3"),
        (None, None),
        (float("nan"), None),
        (np.float64("nan"), None),
        ("", None),
        (" \n", None),
        ("\u200b\ufeff\u2060\u00ad", None),
        ("\u3164\ufe0f\0\x1f", None),
        ("a\0 bus\u200b", "a bus\u200b"),
    ],
)
def test_texts(value, expected):
    assert optional_text(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "the answer is a truth value, not a text"),
        (["a"], "the answer is a list"),
        (
            {"answer": "yes", "id": 1},
            "the answer is an object, not a text; its parts are answer, i",
        ),
        (np.bool_(True), "the answer is a bool"),
    ],
)
def test_what_is_no_text(value, message):
    with pytest.raises(SourceError, match=message) as error:
        text(value, "the answer")
    assert error.value.reason == Reason.BAD_FIELDS


def test_what_is_missing():
    with pytest.raises(SourceError, match="the caption is missing") as error:
        text(None, "the caption")
    assert error.value.reason == Reason.EMPTY_TEXT


def test_identifiers_compare_by_value():
    assert {identifier(value) for value in ("1", 1, 1.0, "01", " 1", np.int32(1))} == {1}
    assert identifier(1.2) != identifier(1.7)
    # Beyond 64 bits, and beyond what Python turns into a number.
    assert identifier("9" * 30) == identifier(int("9" * 30)) == int("9" * 30)
    assert identifier("9" * 5000) == "9" * 5000
    assert identifier("n535334") == "n535334"
    with pytest.raises(SourceError, match="image_id is missing"):
        identifier(None, "image_id")


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "True", "true", " yes "])
def test_what_is_true(value):
    assert flag(value) is True


@pytest.mark.parametrize("value", [False, 0, "0", "false", "no", None, "", float("nan")])
def test_what_is_false(value):
    assert flag(value) is False


def test_what_is_neither():
    with pytest.raises(SourceError, match=r"iscrowd .*'perhaps'"):
        flag("perhaps", "iscrowd")


def test_an_entry_twice():
    found = Unique("image")
    for key, name in ((1, "a.jpg"), (2, "b.jpg"), (1, "a.jpg"), (2, "c.jpg")):
        found.add(key, name)
    assert found[1] == "a.jpg"
    with pytest.raises(SourceError, match="image 2 is there twice") as error:
        found[2]
    assert error.value.reason == Reason.DUPLICATED_ID
    with pytest.raises(SourceError, match="there is no image 3") as error:
        found.find(3, Reason.UNLISTED_IMAGE)
    assert error.value.reason == Reason.UNLISTED_IMAGE


def test_texts_that_show_nothing():
    assert all(map(is_blank, ("", " \t", "\u200b", "\u200d\u2063", "\u2800", "\x07")))
    assert not any(map(is_blank, ("a", "\u200ba", "狗", "🐶", "👨\u200d👩", ".")))


@pytest.mark.parametrize(("value", "expected"), [("1", 1), (" -1.5e2 ", -150), (".5", 0.5), (2, 2)])
def test_numbers(value, expected):
    assert number(value) == expected
    assert number(np.float32(2)) == 2
    assert np.isnan(number("NaN"))
    assert np.isinf(number("-inf"))


@pytest.mark.parametrize(
    "value",
    ["1_0", "\uff11\uff10", "", "0x1", "1,5", True, None, [1], 10**400, "9" * 5000],
    ids=["underscore", "full width", "empty", "hex", "comma", "true", "none", "list", "huge", "9"],
)
def test_what_is_no_number(value):
    with pytest.raises(SourceError, match=r"the side is .*, not a number") as error:
        number(value, "the side")
    assert len(str(error.value)) < 200
