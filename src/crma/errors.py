"""Every error CRMA raises, as a tree.

    CrmaError
    ├── ConfigError            a setting is outside what it may be (also a ValueError)
    ├── DataError              rows that cannot be used; lists every faulty line at once
    ├── BaseModelError         a base model that cannot be found, read or adapted
    │   └── BaseMismatchError  the base is not the one this stack was taught on
    ├── UnknownDomainError     a domain the stack does not hold (also a KeyError)
    ├── TrainingDivergedError  the loss or a gradient is not finite
    └── StackError             the folder on disk
        ├── StackLockedError   another process writes to it
        ├── StackCorruptError  a file is missing, cut or changed
        ├── StackVersionError  written by a format this version does not know
        └── StackWriteError    a write failed (a full disk, no permission); nothing was changed

An error says what happened, where, what was expected, what was got, and the next step.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BaseMismatchError",
    "BaseModelError",
    "ConfigError",
    "CrmaError",
    "DataError",
    "StackCorruptError",
    "StackError",
    "StackLockedError",
    "StackVersionError",
    "StackWriteError",
    "TrainingDivergedError",
    "UnknownDomainError",
]


class CrmaError(Exception):
    """The root: `except CrmaError` catches everything CRMA raises on purpose."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        parts = [
            ("where", self.where),
            ("expected", self.expected),
            ("got", self.got),
            ("next step", self.next_step),
        ]
        return "\n  ".join([self.what, *(f"{label}: {value}" for label, value in parts if value is not None)])


class ConfigError(CrmaError, ValueError):
    pass


class DataError(CrmaError, ValueError):
    """Faulty rows. `faults` holds every (line number, reason), not only those shown."""

    SHOWN = 20

    def __init__(self, what: str, *, faults: Sequence[tuple[int, str]] = (), **context: object) -> None:
        super().__init__(what, **context)  # pyright: ignore[reportArgumentType]
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = [f"line {line}: {reason}" for line, reason in self.faults[: self.SHOWN]]
        if len(self.faults) > self.SHOWN:
            lines.append(f"... and {len(self.faults) - self.SHOWN} more")
        return "\n  ".join([super().__str__(), *lines])


class BaseModelError(CrmaError):
    pass


class BaseMismatchError(BaseModelError):
    pass


class UnknownDomainError(CrmaError, KeyError):
    __str__ = CrmaError.__str__


class TrainingDivergedError(CrmaError):
    pass


class StackError(CrmaError):
    pass


class StackLockedError(StackError):
    pass


class StackCorruptError(StackError):
    pass


class StackVersionError(StackError):
    pass


class StackWriteError(StackError):
    pass
