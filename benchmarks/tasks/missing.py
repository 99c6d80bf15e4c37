"""What is missing of a data set, told at once and not piece by piece."""

from types import TracebackType

from benchmarks.usage import UsageError


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
        """Raises: UsageError with all that the checks found, then where to get it."""
        if self._told:
            raise UsageError("; ".join([*self._told, advice]))
