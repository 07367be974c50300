"""The values that cross folders: small, frozen, keyword-only, and free of torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from crma.errors import ConfigError

__all__ = ["Example", "Matrix", "Message", "Reply", "Role", "Route", "Score", "Split", "check_domain_name"]

Role = Literal["system", "user", "assistant"]

# PEFT keeps adapters in a ModuleDict: a dot is refused there, a slash would leave the stack's folder.
_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_domain_name(name: str) -> str:
    """Return `name`, or raise ConfigError where it could not name an adapter and a folder."""
    if not _DOMAIN_NAME.fullmatch(name) or name.lower() == "base":
        raise ConfigError(
            "this cannot name a domain",
            expected="1 to 64 of A-Z, a-z, 0-9, '-' and '_', the first a letter or digit; not 'base'",
            got=repr(name),
            next_step="choose another name, such as 'medicine'",
        )
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One conversation to learn from: its assistant turns are supervised, all else is context."""

    messages: tuple[Message, ...]
    group: str | None = None  # the document a row came from; rows of one group never stand in two splits
    line: int | None = None  # 1-based, in the file it was read from
    id: str | None = None

    @classmethod
    def of(cls, prompt: str, completion: str, *, group: str | None = None, id: str | None = None) -> Example:
        user, assistant = Message(role="user", content=prompt), Message(role="assistant", content=completion)
        return cls(messages=(user, assistant), group=group, id=id)

    @property
    def prompt(self) -> str:
        """The last user turn: what a router sees of a one-turn row."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def completion(self) -> str:
        return self.messages[-1].content

    @property
    def content_hash(self) -> str:
        """SHA-256 of roles and texts, 64 hexadecimal digits: equal rows, equal hash, wherever they stand."""
        canonical = json.dumps([[m.role, m.content] for m in self.messages], ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A domain's rows: `train` to learn, `validation` to choose, `test` only for numbers."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a query goes: `domain` is None when it goes to the untouched base (`abstained`)."""

    domain: str | None
    confidence: float  # that the query belongs to `nearest`, in [0, 1]; 1 where the caller chose the domain
    nearest: str | None = None  # also where it refused; None without a domain to ask
    runner_up: str | None = None
    abstained: bool = False
    # Of each domain that was asked, how much likelier the query is as its own than as an everyday prompt (log ratio of
    # hidden states), and how usual its words are there.
    # By it a domain accepts, from its threshold on; which of those that accept is nearest is decided by all together.
    scores: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    # That it belongs to each domain that was asked; what is left to 1 is that it belongs to none.
    probabilities: Mapping[str, float] = field(default_factory=dict)
    carried: bool = False  # by the conversation: this turn alone would have gone elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    text: str
    route: Route
    # Who answered, and how much of each: more than one with `top_k`; none is the untouched base.
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The mean negative log-likelihood a supervised token, in nats, with what it was computed from."""

    loss: float
    tokens: int
    losses: tuple[float, ...] = ()  # per example, mean over its own supervised tokens
    exact_match: float | None = None  # share of answers that match, where answers were generated


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """The T × T matrix R of test losses: `rows[t][i]` on domain i after domain t; None where it was not measured."""

    domains: tuple[str, ...]
    base: tuple[float | None, ...]  # the untouched base's, on each domain
    rows: tuple[tuple[float | None, ...], ...]
