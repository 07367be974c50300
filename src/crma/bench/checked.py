"""What the statistics are handed, looked at: each function gives it back as it can be computed with, or refuses it."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crma.errors import ConfigError

__all__ = [
    "Answers",
    "Numbers",
    "confidence_level",
    "finite_number",
    "losses_and_tokens",
    "numbers",
    "positive_numbers",
    "right_or_wrong",
    "same_length",
    "shares",
    "whole_number",
]

Numbers: TypeAlias = Sequence[float] | NDArray[Any]
Answers: TypeAlias = Sequence[bool] | Sequence[int] | NDArray[Any]  # true and false, or 1 and 0


def whole_number(name: str, value: int, least: int = 0) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or isinstance(value, (bool, np.bool_)) or whole < least:
        raise ConfigError(f"{name} is a count", expected=f"a whole number of at least {least}", got=repr(value))
    return whole


def finite_number(name: str, value: float, least: float = -math.inf) -> float:
    if not math.isfinite(value) or value < least:
        raise ConfigError(f"{name} cannot be used", expected=f"a finite number of at least {least}", got=repr(value))
    return float(value)


def confidence_level(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ConfigError("this is no confidence", expected="a share between 0 and 1, such as 0.95", got=repr(value))
    return value


def numbers(name: str, values: Numbers, least: int = 1) -> NDArray[np.float64]:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be numbers", expected="a flat sequence of numbers", got=str(error)) from error
    if found.ndim != 1 or len(found) < least:
        raise ConfigError(
            f"{name} cannot be used", expected=f"a flat sequence of at least {least}", got=f"shape {found.shape}"
        )
    faulty = np.flatnonzero(~np.isfinite(found))
    if len(faulty):
        where = f"{len(faulty)} of {len(found)}, the first at {faulty[0]}: {found[faulty[0]]}"
        raise ConfigError(f"{name} hold what is not finite", expected="finite numbers", got=where)
    return found


def positive_numbers(name: str, values: Numbers) -> NDArray[np.float64]:
    found = numbers(name, values)
    if found.min() <= 0.0:
        raise ConfigError(f"{name} weigh the items", expected="positive numbers", got=f"{found.min():g}")
    return found


def shares(name: str, values: Numbers) -> NDArray[np.float64]:
    found = numbers(name, values)
    if found.min() < 0.0 or found.max() > 1.0:
        raise ConfigError(f"{name} are shares", expected="numbers in [0, 1]", got=f"{found.min():g} to {found.max():g}")
    return found


def losses_and_tokens(name: str, item: tuple[Numbers, Numbers]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    losses, tokens = numbers(f"losses of {name}", item[0]), positive_numbers(f"tokens of {name}", item[1])
    same_length(f"losses of {name}", losses, f"tokens of {name}", tokens)
    if losses.min() < 0.0:
        raise ConfigError(f"losses of {name} cannot be used", expected="losses of at least 0", got=f"{losses.min():g}")
    return losses, tokens


def right_or_wrong(name: str, values: Answers) -> NDArray[np.bool_]:
    found = numbers(name, values)
    if not np.isin(found, (0.0, 1.0)).all():
        raise ConfigError(f"{name} are right or wrong", expected="true and false", got=sorted(set(found.tolist()))[:5])
    return found.astype(np.bool_)


def same_length(left: str, a: Sequence[Any] | NDArray[Any], right: str, b: Sequence[Any] | NDArray[Any]) -> None:
    if len(a) != len(b):
        raise ConfigError(f"{left} and {right} go item by item", expected=f"{len(a)} {right}", got=len(b))
