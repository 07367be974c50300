"""A domain's rows are split by hash into train, validation and test, so that no question stands in two splits.

Each row has a key: its `group`, else its normalised context. SHA-256 of seed and key places the key in [0, 1): test
takes the low end, validation the high end, train the middle. A key's place depends on nothing else, so a row keeps its
split when the file grows or is shuffled, and changing the size of one split never moves rows between the other two.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from crma.errors import ConfigError, DataError
from crma.types import Example, Split, check_domain_name

__all__ = [
    "DomainData",
    "SplitReport",
    "apart_from",
    "document_hashes",
    "documents_of",
    "leaks",
    "prepare_domain",
    "split_examples",
    "split_hashes",
]

# From this many keys on, an empty validation split is lent one: with fewer, one question is more than a fifth of all.
_KEYS_FOR_VALIDATION = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """Where every row went: rows = duplicates_dropped + train + validation + test + unused."""

    rows: int
    duplicates_dropped: int  # rows whose messages equal an earlier row's
    groups: int  # distinct keys
    train: int
    validation: int
    test: int
    unused: int  # beyond a limit, or left over of a group that a count cut: in no split
    validation_lent: bool  # the hash gave validation nothing, so it was lent the group of train nearest to it


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainData:
    name: str
    split: Split
    report: SplitReport

    @property
    def train(self) -> tuple[Example, ...]:
        return self.split.train

    @property
    def validation(self) -> tuple[Example, ...]:
        return self.split.validation

    @property
    def test(self) -> tuple[Example, ...]:
        return self.split.test


def split_examples(
    examples: Iterable[Example],
    *,
    seed: int,
    validation: float | int = 0.1,
    test: float | int = 0.1,
    limit: int | None = None,
    validation_limit: int | None = 100,
    test_limit: int | None = 200,
) -> Split:
    """Split rows, each split in a seeded order, so that its first n rows are a fair sample.

    `validation` and `test` are a share of keys (a float in [0, 1)) or a number of rows (an int, reached exactly; the
    rest of the group it cuts goes to no split). `limit` cuts train; the other two limits cut shares, never numbers.
    Exact duplicates are dropped. DataError where train would be empty or a number of rows is not there.
    """
    return _split(
        examples,
        seed=seed,
        validation=validation,
        test=test,
        limit=limit,
        validation_limit=validation_limit,
        test_limit=test_limit,
    )[0]


def prepare_domain(
    name: str,
    examples: Iterable[Example],
    *,
    seed: int,
    validation: float | int = 0.1,
    test: float | int = 0.1,
    limit: int | None = None,
    validation_limit: int | None = 100,
    test_limit: int | None = 200,
) -> DomainData:
    """`split_examples` under a domain's name, with the account of where every row went."""
    split, report = _split(
        examples,
        seed=seed,
        validation=validation,
        test=test,
        limit=limit,
        validation_limit=validation_limit,
        test_limit=test_limit,
    )
    return DomainData(name=check_domain_name(name), split=split, report=report)


def split_hashes(split: Split) -> dict[str, str]:
    """Per split, SHA-256 over its sorted content hashes: equal sets of rows, equal hash, whatever their order."""
    return {
        name: hashlib.sha256("\n".join(sorted(row.content_hash for row in rows)).encode()).hexdigest()
        for name, rows in _named(split)
    }


def documents_of(examples: Sequence[Example]) -> list[Hashable]:
    """What each row came from; one without a group stands alone."""
    return [example.group if example.group is not None else i for i, example in enumerate(examples)]


def document_hashes(examples: Sequence[Example]) -> tuple[str, ...]:
    """A short hash of each row's key: rows with the same one are of one document, in any split and of any seed."""
    return tuple(hashlib.sha256(_key(e).encode("utf-8", "surrogatepass")).hexdigest()[:8] for e in examples)


def leaks(split: Split) -> tuple[str, ...]:
    """What stands in more than one split: "row <content hash>" or "key <group or context>". It must be empty."""
    places: defaultdict[str, set[str]] = defaultdict(set)
    for name, rows in _named(split):
        for row in rows:
            places[f"row {row.content_hash}"].add(name)
            places[f"key {_key(row)}"].add(name)
    return tuple(sorted(what for what, names in places.items() if len(names) > 1))


def apart_from(split: Split, judged: Split) -> tuple[Split, int]:
    """`split` without what must not meet the validation and test rows of `judged`: rows that are among them, and rows
    of a key that stands there in another split; and how many these are."""
    known = {row.content_hash for _, rows in _named(judged) for row in rows}
    keys = {name: {_key(row) for row in rows} for name, rows in _named(judged)}

    def fits(name: str, row: Example) -> bool:
        elsewhere = any(_key(row) in there for other, there in keys.items() if other != name)
        return row.content_hash not in known and not elsewhere

    kept = {name: tuple(row for row in rows if fits(name, row)) for name, rows in _named(split)}
    left_out = sum(len(rows) for _, rows in _named(split)) - sum(len(rows) for rows in kept.values())
    return Split(**kept), left_out


def _named(split: Split) -> Iterator[tuple[str, tuple[Example, ...]]]:
    yield from (("train", split.train), ("validation", split.validation), ("test", split.test))


def _key(example: Example) -> str:
    if example.group is not None:
        return example.group
    return " ".join(" ".join(m.content for m in example.messages[:-1]).casefold().split())


def _digest(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogatepass")).digest()


def _place(seed: int, key: str) -> float:
    """In [0, 1): 53 bits, since more would round to 1.0."""
    return (int.from_bytes(_digest(seed, key)[:8], "big") >> 11) / 2**53


def _split(
    examples: Iterable[Example],
    *,
    seed: int,
    validation: float | int,
    test: float | int,
    limit: int | None,
    validation_limit: int | None,
    test_limit: int | None,
) -> tuple[Split, SplitReport]:
    _check(validation, test, {"limit": limit, "validation_limit": validation_limit, "test_limit": test_limit})
    rows, groups = 0, defaultdict[str, list[Example]](list)
    order: dict[str, bytes] = {}  # content hash of every row kept, and its place inside a split
    for row in examples:
        rows += 1
        content = row.content_hash
        if content not in order:
            order[content] = _digest(seed, content)
            groups[_key(row)].append(row)
    if not rows:
        raise DataError(
            "there are no rows to split", expected="at least one", got=0, next_step="give rows to learn from"
        )

    def arranged(keys: Iterable[str]) -> list[Example]:
        return sorted((row for key in keys for row in groups[key]), key=lambda row: order[row.content_hash])

    places = {key: _place(seed, key) for key in groups}
    keys = sorted(groups, key=lambda key: (places[key], key))
    sizes = {key: len(group) for key, group in groups.items()}
    test_keys = _first(keys, sizes, test) if isinstance(test, int) else [key for key in keys if places[key] < test]
    taken = set(test_keys)
    free = [key for key in reversed(keys) if key not in taken]
    if isinstance(validation, int):
        validation_keys = _first(free, sizes, validation)
    else:
        validation_keys = [key for key in free if places[key] >= 1 - validation]
    lent = validation > 0 and not validation_keys and len(keys) >= _KEYS_FOR_VALIDATION and len(free) > 1
    if lent:
        validation_keys = free[:1]
    taken.update(validation_keys)

    def cut(keys: list[str], share: float | int, ceiling: int | None) -> list[Example]:
        if isinstance(share, float):
            return arranged(keys)[:ceiling]
        whole = sum(sizes[key] for key in keys[:-1])  # of the groups a count takes, only the last can be cut
        last = {row.content_hash for row in arranged(keys[-1:])[: share - whole]}
        return [row for row in arranged(keys) if _key(row) != keys[-1] or row.content_hash in last]

    test_rows = cut(test_keys, test, test_limit)
    validation_rows = cut(validation_keys, validation, validation_limit)
    train_rows = arranged(key for key in keys if key not in taken)[:limit]
    short = [
        f"{name}: {count} rows asked, {len(got)} there"
        for name, count, got in (("test", test, test_rows), ("validation", validation, validation_rows))
        if isinstance(count, int) and len(got) < count
    ]
    if short or not train_rows:
        raise DataError(
            "the train split would be empty" if not train_rows else "there are too few rows for these splits",
            expected="rows for train beside validation and test",
            got="; ".join([f"{len(order)} different rows in {len(keys)} groups", *short]),
            next_step="add rows, or lower validation and test",
        )
    split = Split(train=tuple(train_rows), validation=tuple(validation_rows), test=tuple(test_rows))
    used = len(train_rows) + len(validation_rows) + len(test_rows)
    report = SplitReport(
        rows=rows,
        duplicates_dropped=rows - len(order),
        groups=len(keys),
        train=len(train_rows),
        validation=len(validation_rows),
        test=len(test_rows),
        unused=len(order) - used,
        validation_lent=lent,
    )
    return split, report


def _first(keys: list[str], sizes: dict[str, int], count: int) -> list[str]:
    taken: list[str] = []
    for key in keys:
        if count <= 0:
            break
        taken.append(key)
        count -= sizes[key]
    return taken


def _check(validation: float | int, test: float | int, limits: dict[str, int | None]) -> None:
    faults: list[str] = []
    shares: dict[str, float | int] = {"validation": validation, "test": test}
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            faults.append(f"{name}={share!r} is no number")
        elif isinstance(share, int) and share < 0:
            faults.append(f"{name}={share} is a negative number of rows")
        elif isinstance(share, float) and not 0 <= share < 1:
            faults.append(f"{name}={share} is not a share in [0, 1)")
    if not faults and isinstance(validation, float) and isinstance(test, float) and validation + test >= 1:
        faults.append(f"validation={validation} and test={test} leave nothing for train")
    for name, ceiling in limits.items():
        lowest = 1 if name == "limit" else 0
        if ceiling is not None and (isinstance(ceiling, bool) or not isinstance(ceiling, int) or ceiling < lowest):
            faults.append(f"{name}={ceiling!r} is not a number of rows of at least {lowest}")
    if faults:
        raise ConfigError(
            "these splits cannot be made",
            expected="validation and test: a share in [0, 1) or a number of rows; limits: a number of rows or None",
            got="; ".join(faults),
            next_step="change these settings",
        )
