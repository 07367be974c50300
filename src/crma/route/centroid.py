"""The router: a small Gaussian per domain over the base model's features, held up against a background and the others.

A feature (the frozen base's hidden state at one layer, averaged over the prompt's tokens) becomes a direction: it is
centred and whitened by the background, then scaled to length one. Lengths are dropped because they tell short prompts
from long ones, not domains from strangers. A domain is the mean of its directions, its first axes of scatter and one
remaining variance; beside these it is counts of its prompts' words (`words.py`), which see another side of a query: to
the hidden state a paragraph about a ship behind an instruction looks like one about a company's debts. Two questions
are asked:

*Is it this domain's at all?* The log-likelihood ratio of the domain's Gaussian to the background's, both shrunk towards
isotropy (regularised discriminant analysis, Friedman 1989; the ratio to a background is the idea of the relative
Mahalanobis distance, Ren et al. 2021, arXiv 2106.09022), and how usual the query's words are in the domain, added up
and held against the domain's own threshold, which is laid by rows that neither has seen. It depends on the query, the
background and that one domain: adding or removing a domain leaves every other domain's scores, threshold and guarantee
as they were.

*Which of those that take it?* The linear discriminant of all means under the covariance they share, pooled by their
numbers of rows (Fisher 1936; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, eq. 4.10): domains
of one vertical differ in directions in which each of them varies, and a density of its own does not see that. A quarter
of the words' evidence is added to it. What only the typing moves counts less: the shared covariance holds, beside the
domains' scatter, how their prompts move when they are typed in haste. Nothing is guaranteed of this answer, so it rests
on all rows, those that laid the threshold as well: of a small domain they are the larger part.

The order of adding cannot matter to either. What else was measured and lost: LOG.md, the sections on the router.

Kept per domain: twice at most 33 vectors, counts of 4,096 buckets of words and a few numbers, no row. The background's
rows are features of the public prompts in `background.py` and are kept as they are.

Dimension key: N rows, D features, R axes, T domains, K background rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from crma.errors import ConfigError, UnknownDomainError
from crma.route.calibration import Calibration, calibrate, conformal_rank
from crma.route.gaussian import ISOTROPY, Gaussian, Lens
from crma.route.seen import HIDDEN_STATES, FeatureKind
from crma.route.words import WordCounts, WordEvidence, Words, is_packed, unpacked
from crma.types import Route, check_domain_name

__all__ = ["MEAN", "DomainStatistics", "Router"]

_POOLEDISOTROPY = 0.3  # of the shared covariance, in units of its own trace; from 0.1 to 1: within a point of accuracy
_LEAST_TRACE = 1e-2  # of the shared covariance of directions, whose length is one; equal rows would leave it at 0
# Of the discriminant's posterior, which is too sure: its Gaussians have lighter tails than prompts. Of 1, 2, 4 and 8
# the likelihood of held-out rows was best at 2 or 4, on far domains and within a vertical.
_TEMPERATURE = 3.0
# What a standard deviation of unusual words weighs against the log-likelihood ratio of hidden states, in nats. From 5
# to 12 more strangers are kept out, of every kind that was tried, and more of a small domain's own prompts (LOG.md).
_WORDS_ACCEPT = 8.0
_WORDS_CHOOSE = 0.25  # of the evidence of words, beside the discriminant over its temperature; 0.5 costs in medicine
_SHORTLIST = 32  # domains that are asked first, the nearest: so a query's time hardly grows with their number
_CHUNK = 1024  # queries at a time: with very many domains each takes megabytes
_FOLDS = 5  # of the background, for scores of strangers that whitening and background have not seen
_HELD_OUT_EVERY = 5  # a fifth of the rows calibrates where no calibration rows were handed in
_MIN_BACKGROUND = 2 * _FOLDS


MEAN = 1.0  # the only kind of pooling there is; a file says so all the same


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainStatistics:
    """What is kept of a domain. Words are None where the router does not look at them."""

    own: Gaussian  # of the rows that do not calibrate: whether a query is the domain's at all
    words: WordCounts | None  # of the same
    calibration: Calibration
    whole: Gaussian  # of all rows: which of several domains
    whole_words: np.ndarray | None  # [B] float32: how many of all rows' prompts have each bucket


@dataclass(frozen=True, kw_only=True, eq=False)
class Router:
    """Which domain a query belongs to, or none. An immutable value: adding or removing gives another Router."""

    background: np.ndarray  # [K, D] float32, rows of `crma.route.seen.seen_of`
    statistics: Mapping[str, DomainStatistics] = field(default_factory=dict)  # sorted by name
    error_rate: float = 0.01
    features: FeatureKind = HIDDEN_STATES

    def __post_init__(self) -> None:
        conformal_rank(1, self.error_rate)
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            held = np.asarray(self.background).astype(np.float32)
        hidden = _checked(held, "background").shape[1] - self.features.columns
        if hidden < 1 or not is_packed(held[:, hidden:]):
            raise _without_words(hidden, self.features)
        varied = held[:, :hidden].std(0).any()
        if len(held) < _MIN_BACKGROUND or not varied:
            raise ConfigError(
                "the background cannot say what an everyday prompt looks like",
                expected=f"features of {_MIN_BACKGROUND} prompts or more that are not all alike",
                got=f"{len(held)} rows" + ("" if varied else ", all alike"),
                next_step="hand in the features of crma.route.background.BACKGROUND_PROMPTS",
            )
        held.flags.writeable = False
        object.__setattr__(self, "background", held)
        object.__setattr__(self, "statistics", MappingProxyType(dict(sorted(self.statistics.items()))))

    @classmethod
    def empty(
        cls, background_features: np.ndarray, *, error_rate: float = 0.01, features: FeatureKind = HIDDEN_STATES
    ) -> Router:
        """A router of no domain, from features [K, D] of BACKGROUND_PROMPTS; it sends everything to the base.

        Args:
            features: what they are made of.
        """
        return cls(background=background_features, error_rate=error_rate, features=features)

    @property
    def width(self) -> int:
        """Of a row of features: hidden state and packed words."""
        return self.background.shape[1]

    @property
    def dimension(self) -> int:
        """Of the hidden state."""
        return self.width - self.features.columns

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.statistics)

    def with_domain(
        self,
        name: str,
        features: np.ndarray,
        calibration_features: np.ndarray | None = None,
        *,
        documents: Sequence[Hashable] | None = None,
        retyped: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Router:
        """This router and one more domain, from features [N, D] of its training prompts.

        Args:
            calibration_features: [M, D], prompts of the domain that are not among the training prompts. Without them
                every fifth document of `features` is held out; with fewer than five there is nothing to hold out, and
                no guarantee.
            documents: what each prompt that calibrates (or, without such, each training prompt) came from, see
                `calibrate`; None where each stands alone.
            retyped: two times [K, D], some of the domain's prompts as they are and as people type them in haste
                (`crma.route.retyping`): the choice between domains then minds the typing less.
        """
        check_domain_name(name)
        if name in self.statistics:
            raise ConfigError(
                "the router holds this domain already",
                expected="a new name",
                got=repr(name),
                next_step="take it out first: router.without_domain(name)",
            )
        fit_ND = _checked(features, f"features of {name!r}", width=self.width)
        given = None if calibration_features is None or len(calibration_features) == 0 else calibration_features
        prompts = len(fit_ND if given is None else given)
        if documents is not None and len(documents) != prompts:
            raise ConfigError(
                "prompts and their documents differ in number",
                where=name,
                expected=prompts,
                got=len(documents),
                next_step="name a document for each prompt that calibrates, or none at all",
            )
        if given is not None:
            own_MD = _checked(given, f"calibration features of {name!r}", width=self.width)
        else:
            told = range(len(fit_ND)) if documents is None else documents
            numbers = {document: i for i, document in enumerate(dict.fromkeys(told))}
            held_out = np.array([numbers[document] % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1 for document in told])
            own_MD, fit_ND = fit_ND[held_out], fit_ND[~held_out]
            documents = [document for document, held in zip(told, held_out, strict=True) if held]
        nothing_held_out = len(own_MD) == 0

        own = Gaussian.of(self._directions(fit_ND))
        words = WordCounts.of(self._words(fit_ND)) if self.features.words else None
        own_scores = self._score(own, words, fit_ND if nothing_held_out else own_MD)
        calibration = calibrate(
            own_scores,
            self._stranger_scores(fit_ND, words),
            error_rate=self.error_rate,
            held_out=not nothing_held_out,
            documents=documents if not nothing_held_out else None,
        )
        all_ND = fit_ND if nothing_held_out else np.concatenate([fit_ND, own_MD])
        made = DomainStatistics(
            own=own,
            words=words,
            calibration=calibration,
            whole=self._whole(name, all_ND, retyped),
            whole_words=self._words(all_ND).sum(0) if self.features.words else None,
        )
        return replace(self, statistics={**self.statistics, name: made})

    def with_more(
        self,
        name: str,
        features: np.ndarray,
        calibration_features: np.ndarray,
        *,
        documents: Sequence[Hashable] | None = None,
        retyped: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Router:
        """This router with more rows of a domain it holds: its Gaussian and that of the new rows are pooled.

        The mean is that of all rows, the scatter too, but for what lies outside the 32 first axes of either; the other
        domains are as they were.

        Args:
            features: [N, D], the new training prompts.
            calibration_features: [M, D], held-out prompts of all that the domain now is; its threshold is set anew, and
                that is all they are for: some of them have been counted before.
            documents: as in `with_domain`.
            retyped: as in `with_domain`, of new prompts.
        """
        held = self.statistics.get(name)
        if held is None:
            raise self._unknown(name)
        new_ND = _checked(features, f"features of {name!r}", width=self.width)
        own_MD = _checked(calibration_features, f"calibration features of {name!r}", width=self.width)
        new = Gaussian.of(self._directions(new_ND))
        pooled = held.own.pooled(new)
        words = held.words.pooled(self._words(new_ND)) if held.words is not None else None
        # Strangers are scored by routers made without them, for which the old rows would be needed. What that changes
        # is measured on the new rows.
        strangers_K = self._score(pooled, words, self.background)
        strangers_K = strangers_K + self._stranger_scores(new_ND, None) - self._score(new, None, self.background)
        calibration = calibrate(
            self._score(pooled, words, own_MD),
            strangers_K,
            error_rate=self.error_rate,
            documents=documents,
        )
        made = DomainStatistics(
            own=pooled,
            words=words,
            calibration=calibration,
            whole=held.whole.pooled(self._whole(name, new_ND, retyped)),
            whole_words=held.whole_words + self._words(new_ND).sum(0) if held.whole_words is not None else None,
        )
        return replace(self, statistics={**self.statistics, name: made})

    def without_domain(self, name: str) -> Router:
        """This router as if it had never seen `name`."""
        if name not in self.statistics:
            raise self._unknown(name)
        kept = {held: statistics for held, statistics in self.statistics.items() if held != name}
        return replace(self, statistics=kept)

    def _unknown(self, name: str) -> UnknownDomainError:
        return UnknownDomainError(
            "the router does not hold this domain",
            expected=", ".join(self.domains) or "a router with a domain in it",
            got=repr(name),
            next_step="choose one of these, or add it first: router.with_domain(name, features)",
        )

    def route(self, features: np.ndarray) -> list[Route]:
        """One Route per query, for features [N, D] or [D]. Of many domains the nearest are asked, and told; all of them
        where these refuse."""
        queries_ND = np.asarray(features)
        queries_ND = queries_ND[None] if queries_ND.ndim == 1 else queries_ND
        if queries_ND.ndim == 2 and len(queries_ND) == 0:
            return []
        queries_ND = _checked(queries_ND, "queries", width=self.width)
        if not self.statistics:
            return [Route(domain=None, confidence=0.0, abstained=True) for _ in queries_ND]
        parts = [queries_ND[i : i + _CHUNK] for i in range(0, len(queries_ND), _CHUNK)]
        return [route for part in parts for route in self._route(part)]

    def is_typical(self, route: Route) -> bool:
        """Whether a query is typical of any domain that was asked, by the route this router gave it."""
        return any(score >= self.statistics[d].calibration.typical for d, score in route.scores.items())

    def typical_of(self, route: Route) -> str | None:
        """The domain a query is sent to, where it is typical of that one; else None, also where another would do: a
        domain's odd rows are often typical of its neighbour."""
        domain = route.domain
        return domain if domain and route.scores[domain] >= self.statistics[domain].calibration.typical else None

    def directions(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] as this router sees them: centred and whitened by the background, of length one."""
        return self._directions(_checked(features, "features", width=self.width))

    def _route(self, queries_ND: np.ndarray) -> list[Route]:
        directions_ND = self._directions(queries_ND)
        weights_DT, bias_T = self._discriminant
        nearness_NT = directions_ND @ weights_DT + bias_T
        prompts_NB = self._words(queries_ND) if self.features.words else None
        if prompts_NB is not None:
            nearness_NT = nearness_NT + _TEMPERATURE * _WORDS_CHOOSE * self._word_evidence.of(prompts_NB)
        asked_NT = _largest(nearness_NT, _SHORTLIST)
        scores_NT = np.full(nearness_NT.shape, -np.inf)
        kept = list(self.statistics.values())
        background_N = self._background_gaussian.log_density(directions_ND)
        for t in np.flatnonzero(asked_NT.any(0)):
            rows = np.flatnonzero(asked_NT[:, t])
            scores_NT[rows, t] = kept[t].own.log_density(directions_ND[rows]) - background_N[rows]
        if prompts_NB is not None:
            scores_NT += _WORDS_ACCEPT * self._all_words.usual(prompts_NB, asked_NT)
        # Where all of these refuse, the rest are asked too: a domain's guarantee holds however many others there are.
        thresholds_T = np.array([held.calibration.threshold for held in kept])
        refused = np.flatnonzero(~np.any(scores_NT >= thresholds_T, axis=1))
        if len(refused) and not asked_NT.all():
            everyone_NT = self._densities_of_all(directions_ND[refused]) - background_N[refused, None]
            if prompts_NB is not None:
                everyone_NT += _WORDS_ACCEPT * self._all_words.usual(prompts_NB[refused])
            scores_NT[refused] = np.where(asked_NT[refused], scores_NT[refused], everyone_NT)
            asked_NT[refused] = True
        return [self._decide(*row) for row in zip(asked_NT, scores_NT, nearness_NT, strict=True)]

    def _directions(self, rows_ND: np.ndarray) -> np.ndarray:
        return self._lens.directions(np.asarray(rows_ND, dtype=np.float64)[:, : self.dimension])

    def _words(self, rows_ND: np.ndarray) -> np.ndarray:
        columns_NP = rows_ND[:, self.dimension :]
        if not is_packed(columns_NP):
            raise _without_words(self.dimension, self.features)
        return unpacked(columns_NP)

    def _whole(self, name: str, rows_ND: np.ndarray, retyped: tuple[np.ndarray, np.ndarray] | None) -> Gaussian:
        """What chooses between domains, of all of a domain's prompts."""
        if retyped is None:
            return Gaussian.of(self._directions(rows_ND))
        tidy_KD, hasty_KD = (_checked(rows, f"retyped features of {name!r}", width=self.width) for rows in retyped)
        if len(tidy_KD) != len(hasty_KD):
            raise ConfigError(
                "prompts and the same prompts in haste differ in number",
                where=name,
                expected=len(tidy_KD),
                got=len(hasty_KD),
                next_step="hand in each prompt twice, in the same order, or none at all",
            )
        return Gaussian.of(self._directions(rows_ND), self._directions(hasty_KD) - self._directions(tidy_KD))

    def _densities_of_all(self, directions_ND: np.ndarray) -> np.ndarray:
        """Every domain's log-density [N, T], all axes in one product and in float32: for very many domains."""
        axes_RD, coefficients_R, along_mean_R, first_T, weights_DT, constants_T, floors_T = self._stacked
        along_NR = directions_ND.astype(np.float32) @ axes_RD.T - along_mean_R
        squares_NR = np.concatenate([along_NR**2 * coefficients_R, np.zeros((len(directions_ND), 1), np.float32)], 1)
        spread_NT = np.add.reduceat(squares_NR, first_T, axis=1) * (np.diff(first_T, append=len(axes_RD)) > 0)
        length_N1 = (directions_ND**2).sum(1, keepdims=True)
        distance_NT = length_N1 / floors_T + directions_ND @ weights_DT + constants_T + spread_NT
        return -distance_NT / 2

    def _decide(self, asked_T: np.ndarray, scores_T: np.ndarray, nearness_T: np.ndarray) -> Route:
        names, calibrations = self._names_and_calibrations
        asked = [int(t) for t in np.flatnonzero(asked_T)]
        accepted = {t for t in asked if scores_T[t] >= calibrations[t].threshold}
        # The nearest of the domains that accept, so that a domain's own query abstains only if its own domain refuses:
        # the guarantee of one domain then holds whatever other domains there are.
        order = sorted(asked, key=lambda t: (t not in accepted, -nearness_T[t], names[t]))
        nearest = order[0]
        known = calibrations[nearest].slope * (scores_T[nearest] - calibrations[nearest].middle)
        posterior = np.exp((nearness_T[order] - nearness_T[order].max()) / _TEMPERATURE)
        # That it is no stranger, times that it is this domain rather than another.
        probabilities = posterior / posterior.sum() / (1.0 + np.exp(-max(known, -700.0)))
        return Route(
            domain=names[nearest] if nearest in accepted else None,
            confidence=float(probabilities[0]),
            nearest=names[nearest],
            runner_up=names[order[1]] if len(order) > 1 else None,
            abstained=nearest not in accepted,
            scores={names[t]: float(scores_T[t]) for t in asked},
            thresholds={names[t]: calibrations[t].threshold for t in asked},
            probabilities={names[t]: float(p) for t, p in zip(order, probabilities, strict=True)},
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything the router is, by name, for safetensors; `router_of` gives an equal router back."""
        arrays = {"background": np.array(self.background), "error_rate": np.array([self.error_rate], np.float64)}
        arrays["features"] = np.array([MEAN, *astuple(self.features)], np.float64)
        for name, held in self.statistics.items():
            told = held.calibration
            numbers = (held.own.count, held.own.rest, told.threshold, told.guarantee, told.count, told.slope)
            numbers += (told.middle, told.typical, told.typical_rank)
            for prefix, of in (("", held.own), ("whole_", held.whole)):
                arrays[f"domain/{name}/{prefix}mean"] = np.array(of.mean)
                arrays[f"domain/{name}/{prefix}axes"] = np.ascontiguousarray(of.axes)
                arrays[f"domain/{name}/{prefix}spread"] = np.array(of.spread)
            arrays[f"domain/{name}/numbers"] = np.array(numbers, np.float64)
            arrays[f"domain/{name}/whole_numbers"] = np.array((held.whole.count, held.whole.rest), np.float64)
            if held.words is not None:
                told = held.words
                numbers = (told.prompts, told.middle, told.variance, told.variance_of_one)
                arrays[f"domain/{name}/words"] = np.array(told.counts)
                arrays[f"domain/{name}/words_numbers"] = np.array(numbers, np.float64)
            if held.whole_words is not None:
                arrays[f"domain/{name}/whole_words"] = np.array(held.whole_words)
        return arrays

    def __eq__(self, other: object) -> bool:
        """The same arrays, bit for bit."""
        if not isinstance(other, Router):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @cached_property
    def _lens(self) -> Lens:
        return Lens.of(self.background[:, : self.dimension].astype(np.float64))

    @cached_property
    def _background_gaussian(self) -> Gaussian:
        return Gaussian.of(self._directions(self.background))

    @cached_property
    def _all_words(self) -> Words:
        return Words([held.words for held in self.statistics.values() if held.words is not None])

    @cached_property
    def _word_evidence(self) -> WordEvidence:
        return WordEvidence([held.whole_words for held in self.statistics.values() if held.whole_words is not None])

    @cached_property
    def _names_and_calibrations(self) -> tuple[tuple[str, ...], tuple[Calibration, ...]]:
        return self.domains, tuple(held.calibration for held in self.statistics.values())

    @cached_property
    def _stacked(self) -> tuple[np.ndarray, ...]:
        """All domains' Gaussians in one piece, in the terms of `Gaussian.log_density`."""
        gaussians = [held.own for held in self.statistics.values()]
        floors = [g.rest + ISOTROPY / self.dimension for g in gaussians]
        spreads = [g.spread.astype(np.float64) for g in gaussians]
        axes_RD = np.concatenate([g.axes for g in gaussians]).astype(np.float32)
        inner = [1 / (s + f) - 1 / f for s, f in zip(spreads, floors, strict=True)]
        along = [g.axes.astype(np.float64) @ g.mean for g in gaussians]
        means_TD = np.stack([g.mean for g in gaussians]).astype(np.float64)
        floors_T = np.array(floors)
        logs = [
            np.log(s + f).sum() + (self.dimension - len(s)) * np.log(f) for s, f in zip(spreads, floors, strict=True)
        ]
        return (
            axes_RD,
            np.concatenate(inner).astype(np.float32),
            np.concatenate(along).astype(np.float32),
            np.cumsum([0, *(len(s) for s in spreads[:-1])]),
            -2 * means_TD.T / floors_T,
            (means_TD**2).sum(1) / floors_T + np.array(logs),
            floors_T,
        )

    @cached_property
    def _discriminant(self) -> tuple[np.ndarray, np.ndarray]:
        """(weights [D, T], bias [T]) of the linear discriminant: equal priors, and no favour to the larger sample
        (McLachlan, Discriminant Analysis and Statistical Pattern Recognition, 1992, on the plug-in rule's bias).

        The shared covariance is a multiple of I and all domains' axes, scaled; where these are fewer than the features,
        Woodbury's identity solves for it without making it.
        """
        kept, dimension = [held.whole for held in self.statistics.values()], self.dimension
        means_TD = np.stack([held.mean for held in kept]).astype(np.float64)
        share_T = np.array([held.count for held in kept]) / sum(held.count for held in kept)
        scaled_RD = np.concatenate(
            [
                np.sqrt(share * held.spread.astype(np.float64))[:, None] * held.axes
                for share, held in zip(share_T, kept, strict=True)
            ]
        )
        rest = float(share_T @ np.array([held.rest for held in kept]))
        floor = rest + _POOLEDISOTROPY * (float((scaled_RD**2).sum()) / dimension + rest)
        floor = max(floor, _LEAST_TRACE / dimension)
        if len(scaled_RD) < dimension:
            inner_RR = np.linalg.inv(scaled_RD @ scaled_RD.T + floor * np.eye(len(scaled_RD)))
            weights_TD = (means_TD - (inner_RR @ (scaled_RD @ means_TD.T)).T @ scaled_RD) / floor
            trace_of_inverse = float(np.trace(inner_RR)) + (dimension - len(scaled_RD)) / floor
        else:
            inverse_DD = np.linalg.inv(scaled_RD.T @ scaled_RD + floor * np.eye(dimension))
            weights_TD, trace_of_inverse = means_TD @ inverse_DD, float(np.trace(inverse_DD))
        # The mean of n rows is longer than the mean itself, by tr(shrunk⁻¹ covariance) / n in this metric: uncorrected,
        # the fewer rows a domain has the less it is chosen.
        longer = (dimension - (floor - rest) * trace_of_inverse) / np.array([held.count for held in kept])
        return np.ascontiguousarray(weights_TD.T), 0.5 * (longer - (weights_TD * means_TD).sum(1))

    def _score(self, gaussian: Gaussian, words: WordCounts | None, rows_ND: np.ndarray) -> np.ndarray:
        directions_ND = self._directions(rows_ND)
        scores_N = gaussian.log_density(directions_ND) - self._background_gaussian.log_density(directions_ND)
        if words is not None:
            scores_N = scores_N + _WORDS_ACCEPT * Words([words]).usual(self._words(rows_ND))[:, 0]
        return scores_N

    def _stranger_scores(self, fit_ND: np.ndarray, words: WordCounts | None) -> np.ndarray:
        """The domain's score for each background row, by a router that was made without that row."""
        background_KD = self.background[:, : self.dimension].astype(np.float64)
        own_ND = fit_ND[:, : self.dimension]
        scores_K = np.empty(len(background_KD))
        for fold in range(_FOLDS):
            unseen = np.arange(len(background_KD)) % _FOLDS == fold
            lens = Lens.of(background_KD[~unseen])
            unseen_directions = lens.directions(background_KD[unseen])
            background = Gaussian.of(lens.directions(background_KD[~unseen]))
            domain = Gaussian.of(lens.directions(own_ND))
            scores_K[unseen] = domain.log_density(unseen_directions) - background.log_density(unseen_directions)
        if words is not None:  # which the background has no part in
            scores_K += _WORDS_ACCEPT * Words([words]).usual(self._words(self.background))[:, 0]
        return scores_K


def _without_words(hidden: int, kind: FeatureKind) -> ConfigError:
    return ConfigError(
        "features without their words",
        expected=f"a hidden state, then {kind.columns} numbers that each hold sixteen buckets of {kind.words}",
        got="fractions, or numbers out of range, where words should be" if hidden > 0 else "fewer numbers than that",
        next_step="take every feature from `crma.route.seen.seen_of`, of the router's own kind",
    )


def _largest(values_NT: np.ndarray, count: int) -> np.ndarray:
    """Where each row has its `count` largest values, or all of them where there are no more: booleans [N, T]."""
    if values_NT.shape[1] <= count:
        return np.ones(values_NT.shape, dtype=bool)
    chosen_NT = np.zeros(values_NT.shape, dtype=bool)
    np.put_along_axis(chosen_NT, np.argpartition(values_NT, -count, axis=1)[:, -count:], True, axis=1)
    return chosen_NT


def _checked(features: np.ndarray, where: str, *, width: int | None = None) -> np.ndarray:
    """`features` as float64 [N >= 1, D >= 1], or a ConfigError that says what is wrong with them."""
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape or (width is not None and rows.shape[1] != width):
        raise ConfigError(
            "features of the wrong shape",
            where=where,
            expected=f"[rows, {width or 'features'}], at least one row",
            got=list(rows.shape),
            next_step="take every feature from one base model, at one layer",
        )
    faulty = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(faulty):
        raise ConfigError(
            "features that are no numbers",
            where=where,
            expected="finite numbers",
            got=f"NaN or infinity in {len(faulty)} rows, first in row {faulty[0]}",
            next_step="look for an empty prompt, or run the base model in bfloat16 or float32 rather than float16",
        )
    return rows
