"""CHAIR: how many of the objects that a caption mentions are not in the image.

Official code: github.com/LisaAnne/Hallucination (utils/chair.py), Rohrbach et al. 2018. This module counts;
finding the objects in a caption's text is another matter, and depends on the vocabulary.
Example: mentions ``dog, frisbee, dog, car`` of an image with dog, frisbee and person: 1 of 4 mentions is
hallucinated, 2 of 3 objects are covered.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from benchmarks.statistics import Ratio, ratio


@dataclass(frozen=True, slots=True)
class Caption:
    """The objects one caption mentions, in order and with repetition, against those there are."""

    mentions: tuple[str, ...]
    truth: frozenset[str]

    @property
    def hallucinated(self) -> tuple[str, ...]:
        return tuple(noun for noun in self.mentions if noun not in self.truth)

    @property
    def covered(self) -> frozenset[str]:
        return self.truth & frozenset(self.mentions)


@dataclass(frozen=True, slots=True)
class Chair:
    """Counts over all captions: hallucinated of all mentions, and covered of all ground-truth objects."""

    captions: Mapping[str, Caption]

    def figures(self) -> dict[str, Ratio]:
        """CHAIR_s, CHAIR_i and recall in percent, objects in mentions a caption; one entry a caption."""
        captions = list(self.captions.values())
        wrong = [len(c.hallucinated) for c in captions]
        said = [len(c.mentions) for c in captions]
        one = [1] * len(captions)
        return {
            "CHAIR_s": ratio([n > 0 for n in wrong], one, outcomes=[n > 0 for n in wrong]),
            "CHAIR_i": ratio(wrong, said),
            "recall": ratio([len(c.covered) for c in captions], [len(c.truth) for c in captions]),
            "objects": ratio(said, one, scale=1),
        }

    def counts(self) -> dict[str, int]:
        """What the figures divide, summed over all captions."""
        captions = self.captions.values()
        return {
            "captions": len(captions),
            "hallucinated captions": sum(bool(c.hallucinated) for c in captions),
            "mentions": sum(len(c.mentions) for c in captions),
            "hallucinated mentions": sum(len(c.hallucinated) for c in captions),
            "objects": sum(len(c.truth) for c in captions),
            "covered objects": sum(len(c.covered) for c in captions),
        }

    def official(self) -> dict[str, float]:
        """The figures as the official scripts print them, percent to 0.1."""
        return {name: round(self.figures()[name].value, 1) for name in ("CHAIR_s", "CHAIR_i", "recall")}


def score(mentions: Mapping[str, Sequence[str]], truth: Mapping[str, Set[str]]) -> Chair:
    """Compares each image's mentioned objects with its ground truth.

    Args:
        mentions: image id -> objects of its caption, in order, with repetition.
        truth: image id -> objects in the image; ids without a caption are passed over.

    Raises: ValueError on no captions (the official code divides by zero) and on image ids without ground
        truth (the official code counts all their objects as hallucinated).
    """
    if not mentions:
        raise ValueError("expected at least one caption, got none")
    unknown = [key for key in mentions if key not in truth]
    if unknown:
        raise ValueError(f"no ground truth for {len(unknown)} image ids, the first of them {unknown[:5]}")
    return Chair({key: Caption(tuple(found), frozenset(truth[key])) for key, found in mentions.items()})
