"""Chinese BERT: pieces and ids. Expected pieces were made once with BertTokenizer 4.57."""

import pickle

import pytest

from ofa_jax.text.bert_wordpiece import BertWordpiece, split_words
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.vocab import CHINESE
from tests.shared import requires_vocab, shared_dir


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(shared_dir() / "vocab" / "bert_cn")


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


@requires_vocab
@pytest.mark.parametrize(("text", "pieces", "decoded"), CASES)
def test_pieces_equal_those_of_bert(tokenizer, text, pieces, decoded):
    ids = tokenizer.encode(text)
    assert [tokenizer.symbol(i) for i in ids] == pieces.split()
    assert tokenizer.decode(ids) == decoded


@requires_vocab
def test_layout_is_that_of_the_chinese_models(tokenizer):
    """SPEC 1.2: [PAD] is id 4, [UNK] 104, [CLS] 105, <S> 108, <T> 109; <mask> 21132."""
    assert tokenizer.layout == CHINESE
    expected = {"[PAD]": 4, "[UNK]": 104, "[CLS]": 105, "[SEP]": 106, "[MASK]": 107}
    expected |= {"<S>": 108, "<T>": 109, "<mask>": 21132, "<bin_999>": 30324}
    assert {symbol: tokenizer.encode_symbols(symbol)[0] for symbol in expected} == expected


@requires_vocab
def test_whole_tokens_between_chinese_words(tokenizer):
    ids = tokenizer.encode("这个区域 <bin_3><bin_4> 描述了什么")
    assert ids[4:6] == [CHINESE.bin_start + 3, CHINESE.bin_start + 4]
    assert tokenizer.decode(ids) == "这 个 区 域 <bin_3> <bin_4> 描 述 了 什 么"
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


@requires_vocab
def test_word_starts_are_pieces_without_hashes(tokenizer):
    starts = tokenizer.word_starts()
    assert starts.shape == (4 + 21128,)
    assert starts[tokenizer.encode("playing 狗")].tolist() == [True, False, True]
    assert starts[:4].all()


@requires_vocab
def test_copies_give_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = pickle.loads(pickle.dumps(load_tokenizer(tmp_path)))
    assert again.encode("一只狗 playing") == tokenizer.encode("一只狗 playing")


def test_words_are_split_at_chinese_characters_and_punctuation():
    assert split_words("A一只Dog,x") == ["a", "一", "只", "dog", ",", "x"]


def test_missing_files_are_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(FileNotFoundError, match=r"missing dict\.txt"):
        BertWordpiece(tmp_path)
