"""The random choices of pretraining have the frequencies that SPEC 4.3 and 4.4 name.

Seeds are fixed, so a test passes or fails for good. Bounds are those of a statistical test: a right
implementation would fail one test in ten thousand, had the seed been another one.
"""

import math

import numpy as np
import pytest
from scipy import stats

from ofa_jax.data.ops import augment, negatives, random_augment, text_noise
from ofa_jax.data.steps import image as image_steps
from ofa_jax.data.steps import matching as matching_steps
from ofa_jax.data.steps.image import IMAGE_SIZE
from ofa_jax.vocab import VocabLayout

RARE = 1e-4


def assert_counts(counts, probabilities):
    """Pearson's test of counts against probabilities; what cannot happen must not."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities, float)
    assert not counts[probabilities == 0].any()
    possible = probabilities > 0
    expected = counts.sum() * probabilities[possible]
    assert expected.min() > 5, "too few draws for the test"
    assert stats.chisquare(counts[possible], expected).pvalue > RARE


def assert_share(hits, draws, probability):
    assert stats.binomtest(int(hits), draws, probability).pvalue > RARE, hits / draws


def assert_uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > RARE


# Text infilling (SPEC 4.3.8).

MASK = 900
STARTS = np.arange(900) < 600  # ids below 600 begin a word


def one_piece_words(count):
    return np.arange(count, dtype=np.int32)


def test_span_lengths_are_poisson_of_mean_three():
    rng = np.random.default_rng(0)
    # The last span is cut to the budget, so it is left out.
    lengths = np.concatenate(
        [text_noise.sample_span_lengths(600, 3.0, rng)[:-1] for _ in range(60)]
    )
    counts = np.bincount(lengths, minlength=10)
    probabilities = stats.poisson(3).pmf(np.arange(10))
    assert_counts(
        [*counts[:9], counts[9:].sum()], [*probabilities[:9], 1 - probabilities[:9].sum()]
    )


@pytest.mark.parametrize("words", [1, 10, 33, 100])
def test_three_words_in_ten_are_masked(words):
    """Masks that stand for words, plus words that are gone, add up to the budget or less."""
    budget = math.ceil(0.3 * words)
    gone = []
    for seed in range(200):
        noised = text_noise.infill_noise(
            one_piece_words(words), STARTS, MASK, np.random.default_rng(seed)
        )
        gone.append(words - np.count_nonzero(noised != MASK))
        assert gone[-1] <= budget, "spans may overlap, never exceed"
        assert gone[-1] >= 1
    # Spans overlap or run over the end now and then: a tenth to a fifth of the budget is lost.
    assert budget * 0.75 <= np.mean(gone) <= budget


def test_spans_begin_anywhere():
    rng = np.random.default_rng(1)
    noise = text_noise.InfillingNoise(mask_ratio=0.05, mean_span=3.0)
    firsts = []
    for _ in range(4000):
        noised = text_noise.infill_noise(one_piece_words(20), STARTS, MASK, rng, noise)
        kept = noised[noised != MASK]
        if len(kept) == 19:  # one span of one word, the whole budget
            firsts.extend(set(range(20)) - set(kept.tolist()))
    assert_counts(np.bincount(firsts, minlength=20), np.full(20, 1 / 20))


def test_empty_spans_become_masks_at_any_place_and_take_no_word():
    rng = np.random.default_rng(2)
    words, budget = 20, 1
    noise = text_noise.InfillingNoise(mask_ratio=budget / words, mean_span=3.0)
    inserted, places = [], np.zeros(words, int)
    for _ in range(6000):
        noised = text_noise.infill_noise(one_piece_words(words), STARTS, MASK, rng, noise)
        masks = np.flatnonzero(noised == MASK)
        inserted.append(len(masks) - 1)  # the budget of one word is one span
        if inserted[-1] == 1:
            # Where masks stand, one of the two inserted: both kinds are spread evenly.
            places[(masks * words // len(noised))] += 1
    zero = math.exp(-3)
    counts = np.bincount(inserted, minlength=4)
    assert_counts([counts[0], counts[1], counts[2:].sum()], [1 - zero, zero * (1 - zero), zero**2])
    assert_counts(places, np.full(words, 1 / words))


# Negative samples (SPEC 4.3.2).


@pytest.fixture
def negative_files(tmp_path):
    (tmp_path / "all_captions.txt").write_text("\n".join(f"caption {i}" for i in range(11)))
    (tmp_path / "object.txt").write_text("dog\ncat\ncar\ntree\nsofa")
    (tmp_path / "type2ans.json").write_text(
        '{"color": ["red", "blue", "green", "pink"], "how many": ["1", "2", "5", "9"],'
        ' "other": ["table", "sky", "sand"]}'
    )
    return str(tmp_path)


def test_half_of_the_pairs_match_and_two_in_five_wrong_ones_swap_an_object(negative_files):
    step, rng = matching_steps.MatchCaption(negative_files), np.random.default_rng(0)
    example = {"caption": "a dog on a lawn", "objects": ["dog"]}
    found = [step(example, rng) for _ in range(4000)]
    wrong = [row["caption"] for row in found if row["answer"] == "no"]
    assert_share(len(wrong), len(found), 0.5)
    swapped = [text for text in wrong if text.endswith(" on a lawn")]
    assert_share(len(swapped), len(wrong), 0.4)
    # All names but the last are drawn alike; the last stands in for the right one.
    names = [text.split()[1] for text in swapped]
    assert_counts(
        [names.count(name) for name in ("cat", "car", "tree", "sofa", "dog")],
        [0.25, 0.25, 0.25, 0.25, 0],
    )
    others = [text for text in wrong if text.startswith("caption")]
    counts = [others.count(f"caption {number}") for number in range(11)]
    assert_counts(counts, [0.1] * 10 + [0])


@pytest.mark.parametrize("confidence", [0.3, 0.6, 1.0])
def test_wrong_answers_are_of_the_same_type_as_often_as_the_right_one_is_certain(confidence):
    by_type = {"color": ["red", "blue", "green", "pink"], "other": ["table", "sky", "sand"]}
    types = negatives.types_of_answers(by_type)
    rng = np.random.default_rng(0)
    drawn = [negatives.negative_answer("red", confidence, by_type, types, rng) for _ in range(4000)]
    same = [answer for answer in drawn if answer in by_type["color"]]
    assert_share(len(same), len(drawn), confidence - 0.1)
    # "pink", the last, only stands in for the right answer.
    assert_counts([same.count(name) for name in by_type["color"]], [0, 1 / 3, 1 / 3, 1 / 3])


def test_numbers_become_neighbors_when_u_is_above_a_half():
    by_type = {"how many": ["1", "2", "5", "9"], "other": ["sky", "sand"]}
    types = negatives.types_of_answers(by_type)
    rng = np.random.default_rng(0)
    drawn = [negatives.negative_answer("5", 1.0, by_type, types, rng) for _ in range(6000)]
    names = ["4", "6", "1", "2", "9", "sky", "sand"]
    # u in (0.5, 0.9): a neighbor; below 0.5: of the list, "9" in place of "5"; above 0.9: other.
    assert_counts(
        [drawn.count(name) for name in names],
        [0.2, 0.2, 0.5 / 3, 0.5 / 3, 0.5 / 3, 0.1, 0.0],
    )


# Images (SPEC 4.4).


def windows_of(step, monkeypatch, count, example):
    """Sizes and corners with which a step asks for its window; pixels are left out."""
    seen = []

    def window(image, new, left, top, size):
        seen.append((*new, left, top))
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(augment, "resized_window", window)
    rng = np.random.default_rng(0)
    found = [step({**example, IMAGE_SIZE: example[IMAGE_SIZE]}, rng) for _ in range(count)]
    return np.array(seen), found


@pytest.mark.parametrize(
    ("step", "boxes"),
    [
        (image_steps.AugmentForText(), []),
        (image_steps.CropAroundObject(), [[200, 200, 260, 300]]),
    ],
)
def test_short_sides_are_384_to_480(step, boxes, monkeypatch):
    monkeypatch.setattr(image_steps, "random_augment", lambda image, rng: image)
    image = np.zeros((480, 640, 3), np.uint8)
    example = {"image": image, "boxes": boxes, IMAGE_SIZE: 384}
    seen, _ = windows_of(step, monkeypatch, 3000, example)
    short = seen[:, 1]
    assert (short.min(), short.max()) == (384, 480)
    assert_counts(np.bincount(short - 384, minlength=97), np.full(97, 1 / 97))
    np.testing.assert_array_equal(seen[:, 0], short * 640 // 480)
    if not boxes:  # the middle, halves to the even number
        np.testing.assert_array_equal(seen[:, 2], [round((w - 384) / 2) for w in seen[:, 0]])
        np.testing.assert_array_equal(seen[:, 3], [round((h - 384) / 2) for h in seen[:, 1]])
    long = {"image": np.zeros((100, 1000, 3), np.uint8), "boxes": boxes, IMAGE_SIZE: 384}
    seen, _ = windows_of(step, monkeypatch, 20, long)
    assert set(seen[:, 0]) == {672}, "very long images are squashed"


def test_jitter_of_detection(monkeypatch):
    image = np.zeros((480, 640, 3), np.uint8)
    example = {
        "image": image,
        "boxes": [[0, 0, 640, 480], [10, 10, 60, 60]],
        "labels": ["all", "corner"],
        IMAGE_SIZE: 256,
    }
    seen, found = windows_of(image_steps.JitterScene(), monkeypatch, 4000, example)
    widths, heights, lefts, tops = seen.T
    # The short side is 256 to 384 in equal parts; rounding takes half of each end.
    assert (heights.min(), heights.max()) == (256, 384)
    assert_uniform(heights + np.random.default_rng(1).random(len(heights)) - 0.5, 255.5, 384.5)
    np.testing.assert_allclose(widths, heights * 640 / 480, atol=1)
    # Offsets: equally likely from 0 to what sticks out, the end left out.
    for corner, length in ((lefts, widths), (tops, heights)):
        room = length - 256
        assert (corner >= 0).all()
        assert (corner <= np.maximum(room - 1, 0)).all()
        wide = room > 20
        shift = np.random.default_rng(2).random(wide.sum())
        assert_uniform((corner[wide] + shift) / room[wide], 0, 1)
    # Boxes are clipped, and dropped with their labels where they are out of sight.
    whole = np.array([row["boxes"][0] for row in found])
    assert (whole >= 0).all()
    assert (whole <= 256).all()
    for row in found:
        assert row["labels"] == ["all", "corner"][: len(row["boxes"])]
        assert (row["boxes"][:, 2:] > row["boxes"][:, :2]).all()
    kept = np.array([len(row["boxes"]) == 2 for row in found])
    low_enough = 60 * heights / 480 > tops
    plain, mirrored = 60 * widths / 640 > lefts, 580 * widths / 640 < lefts + 256
    assert not kept[~low_enough | ~(plain | mirrored)].any()
    # In sight in one of the two ways only: mirrored half of the time.
    either = low_enough & (plain ^ mirrored)
    assert_share(kept[either].sum(), int(either.sum()), 0.5)


def test_mirrored_half_of_the_time():
    rng = np.random.default_rng(0)
    image = np.zeros((2, 10, 3), np.uint8)
    flips = [augment.random_mirror(image, [[0, 0, 1, 1]], rng)[1][0, 0] == 9 for _ in range(4000)]
    assert_share(sum(flips), 4000, 0.5)


def test_operations_are_drawn_alike_and_applied_half_of_the_time(monkeypatch):
    calls = []

    def spy(name):
        def operation(image, level, sign):
            calls.append((name, sign))
            return image

        return operation

    names = list(random_augment.OPERATIONS)
    monkeypatch.setattr(random_augment, "OPERATIONS", {name: spy(name) for name in names})
    rng, per_image = np.random.default_rng(0), []
    for _ in range(5000):
        before = len(calls)
        random_augment.random_augment(np.zeros((1, 1, 3), np.uint8), rng)
        per_image.append(len(calls) - before)
    # N = 2 draws with replacement, each applied with probability 0.5.
    assert_counts(np.bincount(per_image, minlength=3), [0.25, 0.5, 0.25])
    drawn = [name for name, _ in calls]
    assert len(names) == 10
    assert_counts([drawn.count(name) for name in names], np.full(10, 0.1))
    assert_share(sum(sign > 0 for _, sign in calls), len(calls), 0.5)


@pytest.mark.parametrize(("step", "size", "largest"), [("detect", 256, 500), ("ground", 384, 749)])
def test_bins_are_pixels_of_the_model_input(step, size, largest):
    """SPEC 4.5: bins reach 500 at 256 pixels and 749 at 384, not 999."""
    layout, rng = VocabLayout(), np.random.default_rng(0)
    operation = image_steps.JitterScene() if step == "detect" else image_steps.CropAroundObject()
    seen = []
    for _ in range(40):
        corner, extent = rng.random((2, 2)) * [[60, 40], [60, 40]]
        example = {
            "image": np.zeros((80, 120, 3), np.uint8),
            "boxes": [[0, 0, 120, 80], [*corner, *(corner + extent)]],
            "labels": ["all", "part"],
            IMAGE_SIZE: size,
        }
        seen.append(layout.coordinates_to_bins(operation(example, rng)["boxes"]))
    bins = np.concatenate([np.ravel(row) for row in seen])
    assert bins.min() == 0
    assert bins.max() == largest
    # From 0 to the side of the input and from nowhere else.
    assert len(np.unique(bins)) > 40
