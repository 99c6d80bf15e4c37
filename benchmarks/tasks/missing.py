"""What is missing of a data set, told at once and not piece by piece."""

from collections.abc import Sequence
from types import TracebackType

from benchmarks.usage import UsageError


class MissingError(UsageError):
    """All that is missing of a data set, joined; ``parts`` has each by itself."""

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__("; ".join(parts))
        self.parts = tuple(parts)


class Missing:
    """``with missing: check()`` for each check that raises a UsageError, then ``missing.tell(advice)``."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool:
        if isinstance(error, UsageError):
            self._told[str(error)] = None
            return True
        return False

    def tell(self, advice: str) -> None:
        """Raises: MissingError with all that the checks found, then where to get it."""
        if self._told:
            raise MissingError([*self._told, advice])
