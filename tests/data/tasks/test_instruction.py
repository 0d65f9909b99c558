"""The instruction language: parsing, the official ids, targets of every modality, round trips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax import vocab
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.tasks.instruction import Instruction, Slot, trim_at_eos
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout
from tasks import instructions
from tests.shared import gpt2_dir, requires_gpt2

SIZE = 32
WORDS = [
    " what does the region describe? region: a red dog",
    ' what is the complete text of " a red dog on grass "?',
] * 4
BPE = TrainedBPE.train(WORDS, vocab_size=500)
LAYOUT = VocabLayout(num_text=BPE.num_text, num_codes=64, num_bins=1000)
TOKENIZER = Tokenizer(BPE, LAYOUT)
IMAGE = np.full((SIZE, SIZE, 3), 7, np.uint8)


def encode(line, example, *, tokenizer=TOKENIZER, seed=0, image_size=SIZE, **options):
    rng = np.random.default_rng(seed)
    return Instruction.parse(line).encode(example, tokenizer, rng, image_size=image_size, **options)


def body(ids):
    """Ids between bos and eos."""
    ids = ids.tolist()
    assert ids[0] == vocab.BOS_ID
    assert ids[-1] == vocab.EOS_ID
    return ids[1:-1]


# Parsing.


def test_parse_finds_slots_and_keeps_spaces():
    line = Instruction.parse(instructions.GROUNDED_VQA)
    assert line.source == (
        Slot("IMAGE", "image"),
        " ",
        Slot("TEXT", "question"),
        " region: ",
        Slot("BOX", "region"),
    )
    assert line.target == (" ", Slot("TEXT", "answer"))
    assert line.target_slot == Slot("TEXT", "answer")
    assert line.image_slot == Slot("IMAGE", "image")
    assert line.fields() == {"image", "question", "region", "answer"}
    assert Instruction.parse(" a [TEXT:x] -> [TEXT:y]").image_slot is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[IMAGE:image] what is this?", "has no '->'"),
        ("[IMAGE:image] what is this? ->", "exactly one target slot.*it has 0"),
        ("[IMAGE:image] what -> [TEXT:a] [BOX:b]", "exactly one target slot.*it has 2"),
        ("[IMAGE:image] what -> [IMAGE:other]", r"'\[IMAGE:other\]' is not allowed here"),
        ("[IMAGE:image] what -> [MASKED_TEXT:t]", r"'\[MASKED_TEXT:t\]' is not allowed here"),
        ("[CODE:codes] what -> [TEXT:t]", r"'\[CODE:codes\]' is not allowed here"),
        ("[SOUND:s] what -> [TEXT:t]", r"'\[SOUND:s\]' is not allowed here; allowed are IMAGE"),
        (" look at [IMAGE:image] -> [TEXT:t]", "one image slot at most, in front"),
        ("[IMAGE:a][IMAGE:b] compare -> [TEXT:t]", "one image slot at most, in front"),
        ("[image:image] what -> [TEXT:t]", "malformed slot"),
        ("[IMAGE:Image] what -> [TEXT:t]", "malformed slot"),
        ("[IMAGE:image what -> [TEXT:t]", "malformed slot"),
        ("[IMAGE:image] what -> it is [TEXT:t]", "literal text in the target"),
    ],
)
def test_parse_errors_quote_the_line_and_the_reason(line, message):
    with pytest.raises(InstructionError, match=message) as error:
        Instruction.parse(line)
    assert repr(line) in str(error.value)


# The official ids (SPEC 3.1). Written without bos and eos; bos and pad are the only ids that
# differ between the official and the internal order.

BOX = np.array([0.0, 100.0, 256.0, 384.0], np.float32)
OFFICIAL_BINS = [58457, 58457 + 195, 58457 + 500, 58457 + 749]

OFFICIAL_SOURCES = {
    "captioning": (instructions.CAPTIONING, {}, [99, 473, 5, 2274, 6190, 116]),
    "image_infilling": (instructions.IMAGE_INFILLING, {}, [99, 16, 5, 2274, 11, 5, 1692, 233, 116]),
    "detection": (instructions.DETECTION, {}, [99, 32, 5, 8720, 11, 5, 2274, 116]),
    "grounded_captioning": (
        instructions.GROUNDED_CAPTIONING,
        {"region": BOX},
        [1437, 99, 473, 5, 976, 6190, 116, 976, 35, *OFFICIAL_BINS],
    ),
    "visual_grounding": (
        instructions.VISUAL_GROUNDING,
        {"caption": "a dog"},
        [61, 976, 473, 5, 2788, 22, 10, 2335, 22, 6190, 116],
    ),
    "image_text_matching": (
        instructions.IMAGE_TEXT_MATCHING,
        {"caption": "a"},
        [473, 5, 2274, 6190, 22, 10, 22, 116],
    ),
    "answer_matching": (
        instructions.ANSWER_MATCHING,
        {"question": "q", "candidate": "a"},
        [99, 16, 5, 1948, 7, 864, 22, 2231, 43809, 16, 22, 10, 22, 116],
    ),
    "vqa": (instructions.VQA, {"question": "what is the image"}, [99, 16, 5, 2274]),
    "grounded_vqa": (
        instructions.GROUNDED_VQA,
        {"question": "what does the region describe?", "region": BOX},
        [99, 473, 5, 976, 6190, 116, 976, 35, *OFFICIAL_BINS],
    ),
}


@pytest.fixture(scope="module")
def official():
    return load_tokenizer(gpt2_dir())


@requires_gpt2
@pytest.mark.parametrize("name", OFFICIAL_SOURCES)
def test_sources_have_the_official_ids(official, name):
    line, fields, expected = OFFICIAL_SOURCES[name]
    features = encode(line, {"image": IMAGE, **fields}, tokenizer=official, with_target=False)
    assert body(features["inputs"]) == expected
    assert features["inputs"].dtype == np.int32
    whole = vocab.swap_official_ids(features["inputs"])
    assert whole[0] == 0, "official bos"
    assert whole[-1] == 2, "official eos"
    assert features["targets"].tolist() == [vocab.EOS_ID]


@requires_gpt2
def test_text_infilling_has_the_official_ids(official):
    text = "a dog on the image of the region with a dog in the middle part of the text"
    features = encode(
        instructions.TEXT_INFILLING,
        {"text": text},
        tokenizer=official,
        seed=3,
    )
    prompt = body(features["inputs"])
    # SPEC 4.3.8: 7 tokens, the noised text, 2 tokens.
    assert prompt[:7] == [99, 16, 5, 1498, 2788, 9, 22]
    assert prompt[-2:] == [22, 116]
    clean = official.encode_text(" " + text)
    assert features["targets"].tolist() == [*clean, vocab.EOS_ID]
    noised = prompt[7:-2]
    assert 50264 in noised, "<mask>"
    assert set(noised) <= {*clean, 50264}
    assert noised != clean
    assert not features["image_mask"][0]
    assert not features["image"].any()


@requires_gpt2
def test_targets_have_the_official_ids(official):
    for answer, expected in (("yes", 4420), ("no", 117), ("maybe", 2085)):
        features = encode(
            instructions.VQA,
            {"image": IMAGE, "question": "q", "answer": answer},
            tokenizer=official,
        )
        assert features["targets"].tolist() == [expected, vocab.EOS_ID]
    features = encode(
        instructions.VISUAL_GROUNDING,
        {"image": IMAGE, "caption": "a dog", "region": BOX},
        tokenizer=official,
    )
    assert features["targets"].tolist() == [*OFFICIAL_BINS, vocab.EOS_ID]
    codes = np.array([[0, 8191], [5, 77]])
    features = encode(
        instructions.IMAGE_INFILLING, {"image": IMAGE, "image_codes": codes}, tokenizer=official
    )
    expected = [50265, 50265 + 8191, 50270, 50342, vocab.EOS_ID]
    assert features["targets"].tolist() == expected


# Targets, features, round trips, with a small vocabulary.


def test_box_bins_are_absolute_pixels_of_the_model_input():
    # SPEC 4.5: bin = round(v / 512 * 999), whatever the size of the image is.
    for image_size in (32, 256, 384):
        image = np.zeros((image_size, image_size, 3), np.uint8)
        box = [0, 8, 16, 31]
        features = encode(
            instructions.VISUAL_GROUNDING,
            {"image": image, "caption": "a dog", "region": box},
            image_size=image_size,
        )
        assert (features["targets"][:4] - LAYOUT.bin_start).tolist() == [0, 16, 31, 60]
        assert features["targets"][4] == vocab.EOS_ID


def test_detection_writes_bins_then_label_in_the_order_given():
    boxes = np.array([[0, 0, 16, 16], [8, 8, 31, 31]], np.float32)
    labels = ["red dog", "Grass"]
    example = {"image": IMAGE, "boxes": boxes, "labels": labels}
    features = encode(instructions.DETECTION, example)
    expected = []
    for box, label in zip(boxes, labels):
        expected += TOKENIZER.encode_box(box) + TOKENIZER.encode_text(" " + label)
    assert features["targets"].tolist() == [*expected, vocab.EOS_ID]
    decoded = Instruction.parse(instructions.DETECTION).decode(features["targets"], TOKENIZER)
    assert [label for _, label in decoded] == labels
    np.testing.assert_allclose([box for box, _ in decoded], boxes, atol=0.26)

    empty = encode(instructions.DETECTION, example | {"boxes": boxes[:0], "labels": []})
    assert empty["targets"].tolist() == [vocab.EOS_ID]
    assert Instruction.parse(instructions.DETECTION).decode(empty["targets"], TOKENIZER) == []


def test_masked_image_has_a_central_hole_and_a_code_target():
    example = {"image": IMAGE, "image_codes": np.arange(4).reshape(2, 2)}
    features = encode(instructions.IMAGE_INFILLING, example)
    assert features["image_hole"].tolist() == [8, 8, 24, 24]
    assert features["code_mask"].tolist() == [True]
    assert features["image_mask"].tolist() == [True]
    # SPEC 4.3.7: zeroed after normalization, so the pixels themselves stay.
    np.testing.assert_array_equal(features["image"], IMAGE)
    # SPEC 4.3.7 at the official size: rows and columns 64 .. 191.
    big = encode(
        instructions.IMAGE_INFILLING,
        example | {"image": np.zeros((256, 256, 3), np.uint8)},
        image_size=256,
    )
    assert big["image_hole"].tolist() == [64, 64, 192, 192]


def test_features_of_a_plain_image_task():
    features = encode(instructions.CAPTIONING, {"image": IMAGE, "caption": "a red dog"})
    assert features["code_mask"].tolist() == [False]
    assert features["image_hole"].tolist() == [0, 0, 0, 0]
    assert {key: (value.dtype, value.shape[1:]) for key, value in features.items()} == {
        "inputs": (np.int32, ()),
        "targets": (np.int32, ()),
        "image": (np.uint8, (SIZE, 3)),
        "image_mask": (np.bool_, ()),
        "image_hole": (np.int32, ()),
        "code_mask": (np.bool_, ()),
    }


def test_text_infilling_shortens_text_to_its_last_tokens():
    text = " ".join(["a red dog on grass"] * 20)
    clean = TOKENIZER.encode_text(" " + text)
    features = encode(instructions.TEXT_INFILLING, {"text": text}, max_text_tokens=12)
    assert features["targets"].tolist() == [*clean[-12:], vocab.EOS_ID]
    # SPEC 4.3.8: the first 512 tokens, of which the last 256.
    long = " ".join(["a red dog on grass"] * 400)
    ids = TOKENIZER.encode_text(" " + long)
    assert len(ids) > 1024
    features = encode(instructions.TEXT_INFILLING, {"text": long})
    assert features["targets"].tolist() == [*ids[256:512], vocab.EOS_ID]


def test_no_room_for_a_masked_text_is_an_error():
    # A window of zero or fewer tokens must not select the whole text, as [-0:] does.
    for window in (0, -3):
        with pytest.raises(InstructionError, match="no room"):
            encode(instructions.TEXT_INFILLING, {"text": "a dog"}, max_text_tokens=window)


def test_noise_is_a_function_of_the_generator():
    text = {"text": " ".join(["a red dog on grass"] * 5)}
    line = instructions.TEXT_INFILLING
    first, again, other = (encode(line, text, seed=seed)["inputs"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_whole_tokens_in_data_text_are_not_interpreted():
    for text in ("<bin_5> dog", "<mask>", "a <code_3>"):
        features = encode(instructions.VQA, {"image": IMAGE, "question": text, "answer": text})
        for key in ("inputs", "targets"):
            ids = features[key]
            assert ids.max() < LAYOUT.mask_id, f"{text} became a whole token in {key}"
        decoded = Instruction.parse(instructions.VQA).decode(features["targets"], TOKENIZER)
        assert decoded == text
    # Slots and arrows in data text are data, too.
    text = "[BOX:region] -> [TEXT:answer]"
    features = encode(instructions.VQA, {"image": IMAGE, "question": text, "answer": "a dog"})
    assert TOKENIZER.decode(body(features["inputs"])) == " " + text


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30))
def test_text_round_trip(text):
    features = encode(instructions.VQA, {"image": IMAGE, "question": "q", "answer": text})
    decoded = Instruction.parse(instructions.VQA).decode(features["targets"], TOKENIZER)
    assert decoded == text.strip()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 512, width=32), min_size=4, max_size=4))
def test_box_round_trip_is_within_half_a_bin(box):
    line = Instruction.parse(instructions.VISUAL_GROUNDING)
    features = line.encode(
        {"image": IMAGE, "caption": "a dog", "region": box},
        TOKENIZER,
        np.random.default_rng(0),
        image_size=SIZE,
    )
    decoded = line.decode(features["targets"], TOKENIZER)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, box, atol=0.5 * 512 / 999 + 1e-3)


def test_code_round_trip_marks_other_ids():
    line = Instruction.parse(instructions.IMAGE_INFILLING)
    codes = np.arange(16)
    features = encode(line.text, {"image": IMAGE, "image_codes": codes})
    np.testing.assert_array_equal(line.decode(features["targets"], TOKENIZER), codes)
    ids = np.array([LAYOUT.code_start + 3, 7, LAYOUT.bin_start, vocab.EOS_ID, LAYOUT.code_start])
    assert line.decode(ids, TOKENIZER).tolist() == [3, -1, -1]


def test_decoding_stops_at_eos_and_survives_nonsense():
    grounding = Instruction.parse(instructions.VISUAL_GROUNDING)
    three_bins = np.array([LAYOUT.bin_start] * 3 + [vocab.EOS_ID, LAYOUT.bin_start])
    assert grounding.decode(three_bins, TOKENIZER) is None
    assert grounding.decode(np.zeros(0, np.int32), TOKENIZER) is None
    answer = Instruction.parse(instructions.VQA)
    dog = TOKENIZER.encode_text(" dog")
    assert answer.decode(np.array([*dog, vocab.EOS_ID, *dog]), TOKENIZER) == "dog"
    assert answer.decode(np.array([vocab.EOS_ID, *dog]), TOKENIZER) == ""
    mixed = np.array([*dog, LAYOUT.bin_start + 5, *dog])
    assert answer.decode(mixed, TOKENIZER) == "dog <bin_5> dog"
    assert trim_at_eos(np.array([5, 6, vocab.PAD_ID, 7])).tolist() == [5, 6]


# Examples that do not fit.


def test_missing_field_names_field_example_and_line():
    with pytest.raises(InstructionError) as error:
        encode(instructions.VQA, {"image": IMAGE, "question": "q", "image_id": "image-7"})
    message = str(error.value)
    assert "'image-7'" in message
    assert "no field 'answer'" in message
    assert instructions.VQA in message
    assert "it has image, image_id, question" in message
    with pytest.raises(InstructionError, match="no field 'image'"):
        encode(instructions.CAPTIONING, {"caption": "a dog"})
    with pytest.raises(InstructionError, match="no field 'text'"):
        encode(instructions.TEXT_INFILLING, {"text": None})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((SIZE, SIZE // 2, 3), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
    ],
)
def test_image_of_another_size_or_type_is_refused(image):
    with pytest.raises(InstructionError, match=r"the model reads uint8\[32, 32, 3\]"):
        encode(instructions.CAPTIONING, {"image": image, "caption": "a dog"})


def test_codes_outside_of_the_vocabulary_are_refused():
    for codes in ([0, 64], [-1, 3]):
        with pytest.raises(InstructionError, match="the vocabulary has 64"):
            encode(instructions.IMAGE_INFILLING, {"image": IMAGE, "image_codes": codes})


def test_boxes_and_labels_must_pair_up():
    boxes = np.zeros((2, 4), np.float32)
    for labels in (["dog"], None):
        with pytest.raises(InstructionError, match="one entry of 'labels' per box"):
            encode(
                instructions.DETECTION,
                {"image": IMAGE, "boxes": boxes, "labels": labels},
            )
