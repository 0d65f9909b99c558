"""The judge of `scenes`: reads a sentence and says whether it is true of a scene.

Captions that a model writes are graded by `truth`, which is better than n-gram overlap here: any
wording of the grammar counts, and one false word makes the sentence false. The rules:

- a sentence is true if it parses and everything it says holds;
- "a red circle" asks for at least one, "two red circles" for exactly two; the phrases of a list
  speak of different objects;
- "the red circle" asks for exactly one;
- relations are strict (`world.relation_holds`);
- nothing is held against a sentence for what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ofa_jax.scenes import presets, world
from ofa_jax.scenes.grammar import (
    NUMBERS,
    Assertion,
    Attribution,
    Backdrop,
    Inference,
    Listing,
    Noun,
    Phrase,
    Reference,
    Related,
    Sentence,
    article,
    plural,
)

_SINGULAR = {shape: shape for shape in presets.SHAPES} | {"object": ""}
_PLURAL = {plural(shape): shape for shape in presets.SHAPES} | {plural("object"): ""}
_COUNTS = {word: count for count, word in enumerate(NUMBERS) if count >= 2}


class GrammarError(ValueError):
    """A text is not a sentence of the grammar; the message says where it stops being one."""


class _Reader:
    """A cursor over the words of one text."""

    def __init__(self, text: str):
        text = text.strip().lower()
        self.words = text.removesuffix(".").replace(",", " , ").split()
        self.position = 0

    def peek(self, offset: int = 0) -> str:
        at = self.position + offset
        return self.words[at] if at < len(self.words) else "the end"

    def take(self, *expected: str) -> bool:
        """Steps over the expected words if they come next."""
        if tuple(self.words[self.position : self.position + len(expected)]) != expected:
            return False
        self.position += len(expected)
        return True

    def fail(self, wanted: str) -> GrammarError:
        before = " ".join(self.words[: self.position]) or "the start"
        return GrammarError(f"expected {wanted} after {before!r}, found {self.peek()!r}")

    def demand(self, *expected: str) -> None:
        if not self.take(*expected):
            raise self.fail(repr(" ".join(expected)))

    def choice(self, names: Mapping[str, object] | Sequence[str]) -> str:
        """Steps over the next word if it is one of the names; "" if not."""
        word = self.peek()
        if word not in names:
            return ""
        self.position += 1
        return word

    def relation(self) -> str:
        for relation in world.RELATIONS:
            if self.take(*relation.split()):
                return relation
        return ""

    def noun(self, names: Mapping[str, str] = _SINGULAR) -> Noun:
        size = self.choice(presets.SIZES)
        color = self.choice(presets.COLORS)
        shape = self.choice(names)
        if not shape:
            raise self.fail(f"one of {', '.join(names)}")
        return Noun(color, names[shape], size)

    def article(self) -> None:
        word = self.choice(("a", "an"))
        if not word:
            raise self.fail("'a' or 'an'")
        if word != article(self.peek()):
            raise GrammarError(f"{word!r} does not go with {self.peek()!r}")

    def phrase(self) -> Phrase:
        number = self.choice(_COUNTS)
        if number:
            return Phrase(self.noun(_PLURAL), _COUNTS[number])
        self.article()
        return Phrase(self.noun())

    def phrases(self, first: Phrase | None = None) -> tuple[Phrase, ...]:
        phrases = [first or self.phrase()]
        while self.take(","):
            phrases.append(self.phrase())
        if self.take("and"):
            phrases.append(self.phrase())
        elif len(phrases) > 1:
            raise self.fail("'and'")
        return tuple(phrases)

    def background(self) -> str:
        """ "on a gray background", if it comes."""
        if not self.take("on"):
            return ""
        self.article()
        color = self.choice(presets.BACKGROUNDS)
        if not color:
            raise self.fail(f"one of {', '.join(presets.BACKGROUNDS)}")
        self.demand("background")
        return color

    def definite(self) -> Reference:
        self.demand("the")
        noun = self.noun()
        relation = self.relation()
        if not relation:
            return Reference(noun)
        self.demand("the")
        return Reference(noun, relation, self.noun())

    def statement(self) -> Sentence:
        """A sentence that begins with "the"."""
        if self.take("the", "background", "is"):
            color = self.choice(presets.BACKGROUNDS)
            if not color:
                raise self.fail(f"one of {', '.join(presets.BACKGROUNDS)}")
            return Backdrop(color)
        subject = self.definite()
        if not self.take("is"):
            return subject
        for field, names in (("color", presets.COLORS), ("size", presets.SIZES)):
            value = self.choice(names)
            if value:
                return Attribution(subject, field, value)
        relation = self.relation()
        if not relation or subject.anchor is not None:
            raise self.fail("a colour, a size or a relation")
        self.demand("the")
        assertion = Assertion(subject.noun, relation, self.noun())
        if not self.take("so"):
            return assertion
        conclusion = self.statement()
        if not isinstance(conclusion, Assertion):
            raise GrammarError("'so' must be followed by one plain relation")
        return Inference(assertion, conclusion)

    def scene(self) -> Sentence:
        """A sentence that begins with an article, a number or "there"."""
        if self.peek(1) in presets.BACKGROUNDS and self.peek(2) == "background":
            self.article()
            color = self.choice(presets.BACKGROUNDS)
            self.demand("background")
            self.demand("with")
            return Listing(self.phrases(), color, "with")
        if self.take("there"):
            verb = self.choice(("is", "are"))
            if not verb:
                raise self.fail("'is' or 'are'")
            first = self.phrase()
            if verb != ("is" if first.count == 1 else "are"):
                raise GrammarError(f"'there {verb}' does not go with {str(first)!r}")
            return Listing(self.phrases(first), self.background(), "there")
        first = self.phrase()
        relation = self.relation() if first.count == 1 else ""
        if relation:
            self.article()
            return Related(first.noun, relation, self.noun(), self.background())
        return Listing(self.phrases(first), self.background())


def parse(text: str) -> Sentence:
    """Reads a sentence of the grammar.

    Upper case, extra spaces and one final full stop are forgiven, everything else is not.

    Returns:
      Its tree; `str` of it is the text again.

    Raises:
      GrammarError: if the text is not a sentence of the grammar, with the reason.
    """
    reader = _Reader(text)
    if not reader.words:
        raise GrammarError("the text is empty")
    sentence = reader.statement() if reader.peek() == "the" else reader.scene()
    if reader.position < len(reader.words):
        raise reader.fail("nothing more")
    return sentence


def matches(noun: Noun, thing: world.SceneObject) -> bool:
    """Whether an object has every attribute that a noun names."""
    return (
        (not noun.shape or noun.shape == thing.shape)
        and (not noun.color or noun.color == thing.color)
        and (not noun.size or noun.size == thing.size)
    )


def referents(reference: Reference, scene: world.Scene) -> list[int]:
    """The objects that a reference may mean.

    Args:
      reference: "the red circle" or "the circle left of the square".

    Returns:
      Indices into `scene.objects`; exactly one index means that the reference is unambiguous.
      Empty if the anchor is not unique.
    """
    found = [i for i, o in enumerate(scene.objects) if matches(reference.noun, o)]
    if reference.anchor is None:
        return found
    anchors = [i for i, o in enumerate(scene.objects) if matches(reference.anchor, o)]
    if len(anchors) != 1:
        return []
    anchor = scene.objects[anchors[0]]
    return [
        i
        for i in found
        if i != anchors[0] and world.relation_holds(scene.objects[i], reference.relation, anchor)
    ]


def _listed(phrases: Sequence[Phrase], free: frozenset[int], scene: world.Scene) -> bool:
    """Whether the phrases can speak of different objects among the free ones."""
    if not phrases:
        return True
    phrase, rest = phrases[0], phrases[1:]
    found = {i for i, o in enumerate(scene.objects) if matches(phrase.noun, o)}
    if phrase.count > 1:
        return len(found) == phrase.count and found <= free and _listed(rest, free - found, scene)
    return any(_listed(rest, free - {i}, scene) for i in found & free)


def holds(sentence: Sentence, scene: world.Scene) -> bool:
    """Whether everything a sentence says is so in a scene.

    Returns:
      True or False.

    Raises:
      TypeError: for something that is not a sentence.
    """
    objects = scene.objects
    background = getattr(sentence, "background", "")
    if background and background != scene.background:
        return False
    if isinstance(sentence, Listing):
        return _listed(sentence.phrases, frozenset(range(len(objects))), scene)
    if isinstance(sentence, Related):
        return any(
            a is not b
            and matches(sentence.first, a)
            and matches(sentence.second, b)
            and world.relation_holds(a, sentence.relation, b)
            for a in objects
            for b in objects
        )
    if isinstance(sentence, Reference):
        return len(referents(sentence, scene)) == 1
    if isinstance(sentence, Attribution):
        found = referents(sentence.subject, scene)
        return len(found) == 1 and getattr(objects[found[0]], sentence.field) == sentence.value
    if isinstance(sentence, Assertion):
        first = referents(Reference(sentence.first), scene)
        second = referents(Reference(sentence.second), scene)
        return (
            len(first) == len(second) == 1
            and first != second
            and world.relation_holds(objects[first[0]], sentence.relation, objects[second[0]])
        )
    if isinstance(sentence, Inference):
        return holds(sentence.premise, scene) and holds(sentence.conclusion, scene)
    if isinstance(sentence, Backdrop):
        return True
    raise TypeError(f"not a sentence of scenes: {sentence!r}")


def truth(scene: world.Scene | Mapping[str, object], caption: str) -> bool:
    """Grades a caption.

    Args:
      scene: the scene, or the dict of it that examples carry under "scene".
      caption: any text.

    Returns:
      True if the text is a sentence of the grammar and everything it says holds. Texts that do
      not parse are False; `parse` says why.
    """
    try:
        sentence = parse(caption)
    except GrammarError:
        return False
    if not isinstance(scene, world.Scene):
        scene = world.Scene.from_dict(scene)
    return holds(sentence, scene)
