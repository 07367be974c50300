"""Who else could pick the adapter for a query: the routers that ours stands beside (PROTOCOL rule 7).

`single` is the one adapter that does best on the very rows it is then measured on, and `random` the mean over all
adapters: the first is the best and the second the fair value of its kind, with no luck in either.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np

from crma.errors import ConfigError

__all__ = ["TfidfRouter", "at_random", "best_single", "require_scikit_learn"]

# Losses of a domain's rows under each adapter: domain -> adapter -> a loss a row.
Under = Mapping[str, Mapping[str, Sequence[float]]]


def require_scikit_learn() -> None:
    """Say so before a long run rather than at its end."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("the TF-IDF router needs scikit-learn", next_step="pip install scikit-learn")


class TfidfRouter:
    """Logistic regression on TF-IDF of letters, two to five at a time within words; how sure it is of its choice is the
    largest probability.

    That is the strongest of those tried on validation rows (LOG.md, on the router). It must be fitted again, on rows of
    all domains, for every new one.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    def __init__(self, train: Mapping[str, Sequence[str]]) -> None:
        require_scikit_learn()
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.only = next(iter(train)) if len(train) == 1 else None  # there is nothing to tell apart
        self.letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        self.classifier = LogisticRegression(C=10.0, max_iter=1000)
        if self.only is None:
            texts = [text for rows in train.values() for text in rows]
            labels = [domain for domain, rows in train.items() for _ in rows]
            self.classifier.fit(self.letters.fit_transform(texts), labels)

    def choose(self, queries: Sequence[str]) -> tuple[list[str], list[float]]:
        """(the domain of each query, its probability)."""
        if self.only is not None:
            return [self.only] * len(queries), [1.0] * len(queries)
        found = np.asarray(self.classifier.predict_proba(self.letters.transform(queries)))
        return [str(self.classifier.classes_[i]) for i in found.argmax(1)], found.max(1).tolist()


def best_single(losses: Under, tokens: Mapping[str, Sequence[int]]) -> str:
    """The adapter with the lowest mean over domains of the loss a token: chosen on the rows it is measured on."""
    adapters = next(iter(losses.values()))

    def mean(adapter: str) -> float:
        return float(np.mean([np.average(losses[d][adapter], weights=tokens[d]) for d in losses]))

    return min(adapters, key=mean)


def at_random(losses: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Of a domain's rows: what each loses on average over all adapters."""
    return tuple(float(x) for x in np.mean(list(losses.values()), axis=0))
