"""Lists of answers as people write them: texts, tables in either direction, pickles of numpy."""

import collections
import json
import pickle

import numpy as np
import pytest

from ofa_jax.data.tasks.answering import AnswerList, allowed_answers, answer_ids, read_answers
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from tests.shared import shared_dir

WORDS = ("no", "yes", "2", "light blue")
NUMBERED = {word: number for number, word in enumerate(WORDS)}
SHUFFLED = {word: NUMBERED[word] for word in ("2", "light blue", "no", "yes")}
REVERSED = {number: word for word, number in SHUFFLED.items()}

GOOD = {
    "lines.txt": "no\nyes\n2\nlight blue\n",
    "bom_and_crlf.txt": "\ufeffno\r\nyes\r\n2\r\nlight blue\r\n\r\n",
    "blanks.TXT": " no  \n\tyes\n\n   \n2 \nlight blue",
    "list.json": json.dumps(WORDS),
    "bom.json": "\ufeff" + json.dumps(WORDS),
    "table.json": json.dumps(SHUFFLED),
    "reversed.json": json.dumps(REVERSED),
    "written_numbers.json": json.dumps({word: str(n) for word, n in SHUFFLED.items()}),
    "numbers_among_them.json": json.dumps(["no", "yes", 2, " light blue "]),
    "list.pkl": list(WORDS),
    "tuple.pkl": WORDS,
    "table.pkl": SHUFFLED,
    "reversed.pkl": REVERSED,
    "ordered.pkl": collections.OrderedDict(SHUFFLED),
    "default.pkl": collections.defaultdict(int, SHUFFLED),
    "floats.pkl": {word: float(number) for word, number in SHUFFLED.items()},
    "numpy.pkl": {word: np.int64(number) for word, number in SHUFFLED.items()},
    "numpy_floats.pkl": {word: np.float32(number) for word, number in SHUFFLED.items()},
    "numpy_both.pkl": {np.str_(word): np.uint8(number) for word, number in SHUFFLED.items()},
    "numpy_reversed.pkl": {np.int32(number): word for number, word in REVERSED.items()},
}


def write(directory, name, content, protocol=4):
    path = directory / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix.lower() == ".pkl":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        path.write_bytes(content.encode())
    return str(path)


@pytest.mark.parametrize("name", GOOD)
def test_every_way_to_write_a_list(tmp_path, name):
    for protocol in (0, 2, 4) if name.endswith(".pkl") else (4,):
        directory = tmp_path / str(protocol)
        directory.mkdir()
        path = write(directory, name, GOOD[name], protocol)
        assert read_answers(path) == WORDS
        assert AnswerList(path=path).load() == allowed_answers(path) == WORDS


def test_a_table_of_counts_keeps_its_order(tmp_path):
    """All numbers equal: the answers are still clear."""
    assert read_answers(write(tmp_path, "a.pkl", dict.fromkeys(WORDS, 1))) == WORDS


class Stranger:
    """Something that no list of answers holds."""


BAD = {
    "empty.txt": ("", "the list is empty"),
    "blank.txt": (" \n\r\n", "the list is empty"),
    "twice.txt": ("yes\nno\nyes", "answer 'yes' stands there twice"),
    "twice_with_blanks.txt": ("yes\nno\n yes ", "answer 'yes' stands there twice"),
    "latin.txt": ("caf\xe9".encode("latin1"), "codec can't decode"),
    "odd.json": ('[["a"], 1]', r"entry 0 is \['a'\], not a text"),
    "null.json": ('["a", null]', "entry 1 is None"),
    "true.json": ('{"a": true}', "neither answer -> number nor number -> answer"),
    "hole.json": ('["a", " "]', "entry 1 is ' '"),
    "number.json": ("3", "holds a int"),
    "cut.json": ('["a"', "delimiter"),
    "deep.json": ("[" * 100_000, "nested too deeply"),
    "texts.json": ('{"a": "b"}', "neither answer -> number nor number -> answer"),
    "numbers.json": ('{"1": 2.5, "2": NaN}', "neither answer -> number nor number -> answer"),
    "both.pkl": ({1: 2}, "neither answer -> number nor number -> answer"),
    "set.pkl": ({"a", "b"}, "holds a set"),
    "stranger.pkl": ([Stranger()], "refuses to load .*Stranger"),
    "array.pkl": (np.array(["a", "b"]), "refuses to load"),
    "memo.pkl": (b"\x80\x02Nr" + (1 << 30).to_bytes(4, "little") + b".", "memo index"),
    "cut.pkl": (pickle.dumps(WORDS)[:-9], "cut off or damaged"),
    "no.pkl": (b"yes\nno\n", "damaged"),
    "answers.csv": ("yes,no", "its suffix is none of .txt, .json, .pkl"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_list_is_named(tmp_path, name):
    content, message = BAD[name]
    path = write(tmp_path, name, content)
    for read in (read_answers, allowed_answers):
        with pytest.raises(ValueError, match=rf"{name} .*list of answers: .*{message}"):
            read(path)


def test_missing_and_huge_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt does not exist"):
        allowed_answers(str(tmp_path / "gone.txt"))
    with (tmp_path / "huge.pkl").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(ValueError, match=r"huge\.pkl .*134217728 bytes"):
        read_answers(str(tmp_path / "huge.pkl"))


def test_lists_on_the_command_line(caplog):
    assert allowed_answers("yes, no ,,light blue") == ("yes", "no", "light blue")
    assert allowed_answers(["yes", "no"]) == ("yes", "no")
    assert allowed_answers("A,B,C") == ("A", "B", "C")
    assert allowed_answers("New York,PARIS") == ("New York", "PARIS")
    assert not caplog.records
    assert allowed_answers("YES,NO,2") == ("yes", "no", "2")
    assert "in capitals" in caplog.text
    for given in ("", " , ", (), [" "]):
        with pytest.raises(ValueError, match=r"the list is empty|entry 0 is ' '"):
            allowed_answers(given)
    with pytest.raises(ValueError, match=r"'yes' .*twice"):
        allowed_answers("yes,no,yes")


def test_answers_that_a_vocabulary_cannot_tell_apart():
    tokenizer = Tokenizer(TrainedBPE.train(["yes no"], num_merges=4))

    class LowerCasing:
        encode_text = staticmethod(lambda text: tokenizer.encode_text(text.lower()))

    ids = answer_ids(("yes", "no"), tokenizer, " ", 9)
    assert ids == tuple(tuple(tokenizer.encode_text(f" {word}")) for word in ("yes", "no"))
    with pytest.raises(ValueError, match=r"'no' and 'No' .*vocabulary"):
        answer_ids(("no", "No"), LowerCasing(), " ", None)
    with pytest.raises(ValueError, match=r"'nobody' .*\d tokens, .* 3"):
        answer_ids(("no", "nobody"), tokenizer, " ", 3)


@pytest.mark.skipif(
    not (shared_dir() / "cases" / "answers").is_dir(), reason="needs the cases from the field"
)
def test_cases_from_the_field():
    files = sorted((shared_dir() / "cases" / "answers").glob("*.*"))
    faulty = {"empty.txt": "empty", "odd.json": "entry 0", "twice.txt": "'0' stands there twice"}
    for file in files:
        if file.suffix == ".md":
            continue
        if file.name in faulty:
            with pytest.raises(ValueError, match=rf"{file.name} .*{faulty[file.name]}"):
                allowed_answers(str(file))
        else:
            answers = allowed_answers(str(file))
            assert answers[:4] == ("0", "1", "2", "black")
            assert len(answers) == 18
            assert "square" in answers
    hostile = shared_dir() / "cases" / "hostile" / "memo_67108864.pkl"
    with pytest.raises(ValueError, match=f"{hostile} is no list of answers"):
        allowed_answers(str(hostile))
