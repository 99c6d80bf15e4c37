"""What came of one model type."""

from dataclasses import dataclass

PASS = "pass"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Each of the two is "pass", or the reason why not.

    Attributes:
        contrast: whether the layers are read right, and what is done with them is right.
        skip: whether blocks are left out exactly.
        notes: what holds beside that.
    """

    contrast: str
    skip: str
    notes: tuple[str, ...] = ()

    def line(self, name: str) -> str:
        """For people: what passed, or why not."""
        told = f"contrast: {self.contrast}; skip: {self.skip}"
        if self.contrast == self.skip != PASS:
            told = f"neither: {self.skip}"
        return f"{name}: {told}" + "".join(f" ({note})" for note in self.notes)
