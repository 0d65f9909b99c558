"""The language of `scenes`: every sentence as a small tree, and its one wording.

`descriptions` and `questions` build trees from scenes and write them with `str`; `truth` reads
text back into trees and checks them. Writing and reading are inverse: parse(str(tree)) == tree.

    Listing      a red circle and two blue squares on a gray background
                 there is a red circle | a gray background with a red circle
    Related      a red circle left of a blue square
    Reference    the red circle | the object above the blue square
    Attribution  the red circle is small | the object above the square is blue
    Assertion    the circle is left of the square
    Inference    the circle is left of the square so the square is right of the circle
    Backdrop     the background is gray
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")
_PLURALS = {"cross": "crosses"}


def article(word: str) -> str:
    """ "a" or "an", as the word wants it."""
    return "an" if word[0] in "aeiou" else "a"


def plural(noun: str) -> str:
    """The plural of a shape or of "object"."""
    return _PLURALS.get(noun, noun + "s")


@dataclasses.dataclass(frozen=True, slots=True)
class Noun:
    """A kind of object by some of its attributes; "" means not said.

    Attributes:
      color: colour name.
      shape: shape name; "" is worded "object".
      size: size name.
    """

    color: str = ""
    shape: str = ""
    size: str = ""

    def __str__(self) -> str:
        return " ".join(w for w in (self.size, self.color, self.shape or "object") if w)

    @property
    def indefinite(self) -> str:
        """With its article, as in "an orange circle"."""
        words = str(self)
        return f"{article(words)} {words}"

    def counted(self, count: int) -> str:
        """With a number, as in "two red crosses"; one becomes the article."""
        if count == 1:
            return self.indefinite
        adjectives = "".join(f"{w} " for w in (self.size, self.color) if w)
        return f"{NUMBERS[count]} {adjectives}{plural(self.shape or 'object')}"

    @property
    def pair(self) -> tuple[str, str]:
        """(color, shape); a held-out pair must not be named."""
        return self.color, self.shape


@dataclasses.dataclass(frozen=True, slots=True)
class Phrase:
    """A number of objects of a kind; 1 says "at least one", more says "exactly"."""

    noun: Noun
    count: int = 1

    def __str__(self) -> str:
        return self.noun.counted(self.count)


class Sentence:
    """Base of all sentences."""

    __slots__ = ()

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence; an attribution's subject includes what is said of it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Sentence):
    """Things that are in the image.

    Attributes:
      phrases: what there is; different phrases speak of different objects.
      background: its colour, or "".
      opening: "" | "there" ("there is ...") | "with" ("a gray background with ...").
    """

    phrases: tuple[Phrase, ...]
    background: str = ""
    opening: str = ""

    def __str__(self) -> str:
        words = [str(phrase) for phrase in self.phrases]
        things = words[-1] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
        if self.opening == "with":
            return f"{article(self.background)} {self.background} background with {things}"
        if self.opening == "there":
            verb = "is" if self.phrases[0].count == 1 else "are"
            things = f"there {verb} {things}"
        return things + on_background(self.background)

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence."""
        return (phrase.noun for phrase in self.phrases)


@dataclasses.dataclass(frozen=True, slots=True)
class Related(Sentence):
    """Two things and how they stand to each other: "a red circle left of a blue square"."""

    first: Noun
    relation: str
    second: Noun
    background: str = ""

    def __str__(self) -> str:
        things = f"{self.first.indefinite} {self.relation} {self.second.indefinite}"
        return things + on_background(self.background)

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence."""
        return iter((self.first, self.second))


@dataclasses.dataclass(frozen=True, slots=True)
class Reference(Sentence):
    """The one object that fits: "the red circle", "the object left of the blue square".

    Attributes:
      noun: what it is.
      relation: how it stands to the anchor, or "".
      anchor: the one object of that kind, where there is a relation.
    """

    noun: Noun
    relation: str = ""
    anchor: Noun | None = None

    def __str__(self) -> str:
        if self.anchor is None:
            return f"the {self.noun}"
        return f"the {self.noun} {self.relation} the {self.anchor}"

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence."""
        return iter((self.noun,) if self.anchor is None else (self.noun, self.anchor))


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution(Sentence):
    """What an object is like: "the circle is red".

    Attributes:
      subject: the object.
      field: "color" or "size".
      value: name of the colour or size.
    """

    subject: Reference
    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.subject} is {self.value}"

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence, the subject with what is said of it."""
        yield dataclasses.replace(self.subject.noun, **{self.field: self.value})
        yield from self.subject.nouns()


@dataclasses.dataclass(frozen=True, slots=True)
class Assertion(Sentence):
    """How two objects stand: "the circle is left of the square"."""

    first: Noun
    relation: str
    second: Noun

    def __str__(self) -> str:
        return f"the {self.first} is {self.relation} the {self.second}"

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence."""
        return iter((self.first, self.second))


@dataclasses.dataclass(frozen=True, slots=True)
class Inference(Sentence):
    """Two assertions: "the circle is left of the square so the square is right of the circle"."""

    premise: Assertion
    conclusion: Assertion

    def __str__(self) -> str:
        return f"{self.premise} so {self.conclusion}"

    def nouns(self) -> Iterator[Noun]:
        """All nouns of the sentence."""
        yield from self.premise.nouns()
        yield from self.conclusion.nouns()


@dataclasses.dataclass(frozen=True, slots=True)
class Backdrop(Sentence):
    """The colour of the background: "the background is gray"."""

    background: str

    def __str__(self) -> str:
        return f"the background is {self.background}"

    def nouns(self) -> Iterator[Noun]:
        """No nouns."""
        return iter(())


def on_background(background: str) -> str:
    """ " on a gray background", or "" without one."""
    return f" on {article(background)} {background} background" if background else ""
