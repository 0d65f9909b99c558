"""Chinese BERT: pieces and ids. Expected pieces were made once with BertTokenizer 4.57."""

import json
import pickle

import pytest

from ofa_jax.text.bert_wordpiece import BertWordpiece, split_words
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.vocab import CHINESE
from tests.shared import bert_dir, requires_cases, shared_dir


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(bert_dir())


CASES = [
    ("图片上的文字是什么?", "图 片 上 的 文 字 是 什 么 ?", "图 片 上 的 文 字 是 什 么?"),
    ("Café PLAYING naïve", "cafe play ##ing na ##ive", "cafe playing naive"),
    (
        "iPhone12手机 ¥1,299.00 包邮!",
        "iphone ##12 手 机 ¥ ##1 , 299 . 00 包 邮 !",
        "iphone12 手 机 ¥1, 299. 00 包 邮!",
    ),
    ("[MASK] [cls] [SEP]a", "[MASK] [ cl ##s ] [SEP] a", "[MASK] [ cls ] [SEP] a"),
    ("ﬁ İstanbul ß", "[UNK] is ##tan ##bu ##l ß", "[UNK] istanbul ß"),
    ("嵐\uf900豈 \u2028x\u3000y", "嵐 豈 豈 x y", "嵐 豈 豈 x y"),
    ("😀👨\u200d👩", "[UNK]", "[UNK]"),
    ("a" * 101, "[UNK]", "[UNK]"),
    ("don't it's", "don ' t it ' s", "don't it's"),
    ("", "", ""),
    ("\x00a\x07b\ufffdc", "abc", "abc"),
    ("１２３ ＡＢＣ", "１２ ##３ ａ ##ｂ ##ｃ", "１２３ ａｂｃ"),
    ("user_name@example.com", "user _ name @ ex ##am ##ple . com", "user _ name @ example. com"),
]


@pytest.mark.parametrize(("text", "pieces", "decoded"), CASES)
def test_pieces_equal_those_of_bert(tokenizer, text, pieces, decoded):
    ids = tokenizer.encode(text)
    assert [tokenizer.symbol(i) for i in ids] == pieces.split()
    assert tokenizer.decode(ids) == decoded


def test_layout_is_that_of_the_chinese_models(tokenizer):
    """SPEC 1.2: [PAD] is id 4, [UNK] 104, [CLS] 105, <S> 108, <T> 109; <mask> 21132."""
    assert tokenizer.layout == CHINESE
    expected = {"[PAD]": 4, "[UNK]": 104, "[CLS]": 105, "[SEP]": 106, "[MASK]": 107}
    expected |= {"<S>": 108, "<T>": 109, "<mask>": 21132, "<bin_999>": 30324}
    assert {tokenizer.symbol(i): i for i in expected.values()} == expected


def test_whole_tokens_between_chinese_words(tokenizer):
    ids = tokenizer.encode("这个区域 <bin_3><bin_4> 描述了什么")
    assert ids[4:6] == [CHINESE.bin_start + 3, CHINESE.bin_start + 4]
    assert tokenizer.decode(ids) == "这 个 区 域 <bin_3> <bin_4> 描 述 了 什 么"
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_word_starts_are_pieces_without_hashes(tokenizer):
    starts = tokenizer.word_starts()
    assert starts.shape == (4 + 21128,)
    assert starts[tokenizer.encode("playing 狗")].tolist() == [True, False, True]
    assert starts[:4].all()


def test_copies_give_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = pickle.loads(pickle.dumps(load_tokenizer(tmp_path)))
    assert again.encode("一只狗 playing") == tokenizer.encode("一只狗 playing")


def test_words_are_split_at_chinese_characters_and_punctuation():
    assert split_words("A一只Dog,x") == ["a", "一", "只", "dog", ",", "x"]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected vocab\.txt"):
        BertWordpiece(tmp_path)


PIECES = ["[PAD]", "[UNK]", "狗", "一", "##ing", "play", "\u2028", "##\u2028"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
WHOLE = ["<mask>", "<code_0>", "<code_1>", "<bin_0>", "<bin_1>", "<bin_2>"]


def write_rows(directory, rows):
    (directory / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("specials", [[], SPECIALS], ids=["BERT", "HuggingFace"])
@pytest.mark.parametrize("listed", ["", "added_tokens.json", "vocab.txt"])
def test_the_vocabulary_file_alone_is_enough(tmp_path, specials, listed):
    rows = specials + PIECES + (WHOLE if listed == "vocab.txt" else [])
    write_rows(tmp_path, rows)
    if listed == "added_tokens.json":
        tokens = {token: 4 + len(PIECES) + i for i, token in enumerate(WHOLE)}
        (tmp_path / listed).write_text(json.dumps(tokens))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.text_tokenizer.symbols == tuple(PIECES)
    assert tokenizer.encode("一 playing 狗 cat") == [7, 9, 8, 6, 5]
    assert tokenizer.layout.num_text == len(PIECES)
    parts = (tokenizer.layout.num_codes, tokenizer.layout.num_bins)
    assert parts == ((2, 3) if listed == "added_tokens.json" else (8192, 1000))
    tokenizer.save(tmp_path / "copy")
    again = pickle.loads(pickle.dumps(load_tokenizer(tmp_path / "copy")))
    assert again.layout == tokenizer.layout
    assert again.encode("一 playing 狗") == [7, 9, 8, 6]


def test_a_dictionary_says_the_order(tmp_path):
    write_rows(tmp_path, SPECIALS + PIECES)
    order = [*reversed(PIECES[:6]), *PIECES[6:]]
    (tmp_path / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in order), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("狗 play") == [7, 4]


@requires_cases
@pytest.mark.parametrize("name", ["cn_hf", "cn_vocab_only"])
def test_published_directories_give_the_ids_of_the_dictionary(tokenizer, name):
    directory = shared_dir() / "cases" / name
    if not directory.is_dir():
        pytest.skip(f"needs the case {name} beside the vocabularies")
    other = load_tokenizer(directory)
    assert other.layout == CHINESE
    for text, *_ in CASES:
        assert other.encode(text) == tokenizer.encode(text)
