"""A study at one look: where its questions stand, and which run would bring the most for its cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from lightning_tl.laws.candidates import Candidate, Costs, place_of
from lightning_tl.laws.forms import Array
from lightning_tl.laws.lookahead import Outlook, current, new_draw, new_run, outlook, scratch_of, scratch_outlook
from lightning_tl.laws.posterior import Particles, Points, Prior, combined, level_centre, particles
from lightning_tl.laws.proposals import LEAST_GAIN, Kind, Option, Proposal, Value, ground
from lightning_tl.laws.questions import Question
from lightning_tl.laws.rivals import among_rivals
from lightning_tl.laws.stopping import Decision, State, missing_runs, why

#: Imagined outcomes of the runs of a batch that are chosen before the next one.
_FANTASIES = 6
#: Irrational steps that spread the imagined outcomes.
_STEPS = (0.7548776662466927, 0.5698402909980532)
#: Gains under this are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Stand:
    """Where one question stands: the groups' together, or one group's."""

    group: int
    probability: Array
    decided: bool


class World:
    """The posterior of some points, and what one more run is expected to bring."""

    def __init__(self, points: Sequence[Points], own: Sequence[Particles], question: Question, prior: Prior) -> None:
        self.points, self.own, self.question, self.prior = list(points), list(own), question, prior
        self.posterior = combined(own, prior)
        if question.joint:
            self.posterior = among_rivals(self.posterior, question.at)
        self.right, self.weight = question.right(self.posterior), question.weight(self.posterior)
        self.probability = [current(right, weight) for right, weight in zip(self.right, self.weight, strict=True)]
        self._values: dict[tuple[int, Kind, int, float], Value] = {}

    def outcome(self, option: Option) -> tuple[Array, Array]:
        """Return mean (S, P) and spread (S,) of the log error of a run."""
        item, noise = self.posterior.groups[option.group], self.posterior.noise
        if option.kind == "draw":
            return new_draw(item, noise, option.place)
        if option.kind == "scratch":
            scratch = scratch_of(item.points, noise)
            return np.full_like(item.level, scratch.mean), np.sqrt(scratch.variance + scratch.run)
        return new_run(item, noise, option.first.n)

    def lacks_runs(self, group: int, option: Option | None = None) -> bool:
        """Return whether a group's question, or the one of all, rests on too few runs, even with one more run."""
        joint, done = self.question.joint, option.group if option is not None and option.pretrains else -1
        runs = [len(item.n) + (i == done) for i, item in enumerate(self.points)]
        return any(missing_runs(joint, count) for count in (runs if joint else runs[group : group + 1]))

    def value(self, option: Option, limit: float) -> Value:
        """Return what one more run is expected to bring, where answers with this probability are decided."""
        if option.key not in self._values:
            self._values[option.key] = self._value(option, limit)
        return self._values[option.key]

    def _value(self, option: Option, limit: float) -> Value:
        probability = self.probability[option.group]
        wrong = float(1 - probability.max())
        doubt = 1 - float((probability**2).sum() / max(probability.sum(), 1e-300))
        runs = len(self.points[option.group].n)
        if self.question.of_shape and not runs:  # a first run says where a curve lies, and nothing of how it falls
            return Value(0.0, 0.0, Outlook(wrong, doubt, 0.0))
        right, weight = self.right[option.group], self.weight[option.group]
        if option.kind == "scratch":
            item = self.posterior.groups[option.group]
            known = scratch_of(item.points, self.posterior.noise)
            ahead = scratch_outlook(item.log_error(self.question.at), weight, known, limit)
        else:
            ahead = outlook(right, weight, *self.outcome(option), limit)
        if self.lacks_runs(option.group, option):
            ahead = replace(ahead, settles=0.0)
        gain, insight = (drop if drop > _ROUNDING else 0.0 for drop in (wrong - ahead.wrong, doubt - ahead.doubt))
        return Value(gain, insight, ahead)


class Study:
    """A study at one look: its points, what could be run, and what that would bring."""

    def __init__(
        self,
        points: Sequence[Points],
        question: Question,
        candidates: Sequence[Candidate],
        prior: Prior,
        running: Sequence[Candidate] = (),
    ) -> None:
        self.points, self.question, self.prior = list(points), question, prior
        self.n_ref = smallest_size(points, question, [*candidates, *running])
        self.centre = level_centre(points, prior)
        self.options = self._options([item for item in candidates if item not in running])
        self.running = [option for item in running for option in self._options([item])]
        self.world = self._world(self.points, [self._particles(item) for item in self.points])

    def _particles(self, points: Points) -> Particles:
        return particles(points, self.prior, self.n_ref, self.centre)

    def _world(self, points: Sequence[Points], own: Sequence[Particles]) -> World:
        return World(points, own, self.question, self.prior)

    def _options(self, candidates: Sequence[Candidate]) -> list[Option]:
        place = {item.label: i for i, item in enumerate(self.points)}
        alike: dict[tuple[int, Kind, int, float], list[Candidate]] = {}
        some = any(len(item.n) for item in self.points)
        for item in candidates:
            group = place[item.group]
            points = self.points[group]
            kind: Kind = "draw" if item.draw is not None else "seed" if item.n in points.n else "size"
            if some and not len(points.n):
                kind = "group"
            if item.n == 0:
                kind = "scratch"
            if kind == "scratch" and self.question.name != "negative_transfer":
                continue
            at = place_of(item, points) if kind == "draw" else -1
            alike.setdefault((group, kind, at, item.n), []).append(item)
        return [Option(group, kind, at, tuple(items)) for (group, kind, at, _), items in alike.items()]

    def cost(self, option: Option, costs: Costs, largest: float | None = None) -> float:
        """Return what a run costs."""
        own = float(self.points[option.group].n.max(initial=0.0)) if largest is None else largest
        return costs.of(option.first, own)

    def stand(self, limit: float) -> list[Stand]:
        """Return where each question stands."""
        groups = range(1 if self.question.joint else len(self.points))
        result = []
        for group in groups:
            probability = self.world.probability[group]
            sure = bool(probability.max() >= limit)
            result.append(Stand(group, probability, sure and not self.world.lacks_runs(group)))
        return result

    def decision(self, stand: Stand, limit: float, looks: int, options: Sequence[Option]) -> Decision:
        """Return where a question stands as users read it."""
        names = self.question.answers(self.world.posterior)
        best = int(np.argmax(stand.probability))
        left = [item for item in options if self.question.joint or item.group == stand.group]
        state: State = "decided" if stand.decided else "open" if left else "exhausted"
        confidence = float(stand.probability[best])
        label = "" if self.question.joint else self.points[stand.group].label
        shares = {name: float(share) for name, share in zip(names, stand.probability, strict=True)}
        reason = why(state, confidence, limit, looks, self.question.joint)
        return Decision(label, state, names[best], confidence, limit, looks, shares, reason)

    def lacking(self, limit: float) -> dict[int, int]:
        """Return, for groups whose answer is sure enough but rests on too few runs, how many more they need."""
        missing = {group: missing_runs(self.question.joint, len(item.n)) for group, item in enumerate(self.points)}
        sure = [group for group, shares in enumerate(self.world.probability) if shares.max() >= limit]
        return {group: missing[group] for group in sure if missing[group]}

    def ranked(self, options: Sequence[Option], costs: Costs, limit: float) -> list[Proposal]:
        """Return a proposal for each option, the best first."""
        values = [self.world.value(option, limit) for option in options]
        prices = [self.cost(option, costs) for option in options]
        lacking = self.lacking(limit)
        order = _order(options, values, prices, lacking)
        return [self._proposal(options[i], values[i], prices[i], lacking) for i in order]

    def _proposal(self, option: Option, value: Value, cost: float, lacking: Collection[int]) -> Proposal:
        first = option.group in lacking and option.pretrains
        why = ground(option, self.points[option.group], value, first)
        per_cost = value.gain / cost
        return Proposal(option.first, option.kind, value.gain, value.insight, cost, per_cost, value.ahead.settles, why)

    def batch(self, options: Sequence[Option], costs: Costs, limit: float, size: int) -> tuple[Proposal, ...]:
        """Return runs to start together: each the best, given that those before it are done with unknown outcome."""
        worlds = [self.world]
        left, money = list(options), costs.budget
        largest = [float(item.n.max(initial=0.0)) for item in self.points]
        lacking, chosen = self.lacking(limit), list[Proposal]()
        for step, option in enumerate(self.running):
            worlds = self._imagined(worlds, option, step + 1)
            largest[option.group] = max(largest[option.group], option.first.n)
            lacking = _one_less(lacking, option)
        while left and len(chosen) < size:
            prices = [self.cost(option, costs, largest[option.group]) for option in left]
            values = [_mean([world.value(option, limit) for world in worlds]) for option in left]
            order = [i for i in _order(left, values, prices, lacking) if money is None or prices[i] <= money]
            if not order:
                break
            option, cost = left[order[0]], prices[order[0]]
            chosen.append(self._proposal(option, values[order[0]], cost, lacking))
            money = None if money is None else money - cost
            largest[option.group] = max(largest[option.group], option.first.n)
            lacking = _one_less(lacking, option)
            kind: Kind = "seed" if option.pretrains else option.kind
            rest = replace(option, kind=kind, candidates=option.candidates[1:])
            left = [rest if item is option else item for item in left if item is not option or rest.candidates]
            if len(chosen) < size:
                worlds = self._imagined(worlds, option, len(self.running) + len(chosen))
        return tuple(chosen)

    def _imagined(self, worlds: Sequence[World], option: Option, step: int) -> list[World]:
        """Return worlds in which a run has been done, with outcomes spread over what is expected."""
        count = _FANTASIES
        starts = [worlds[i % len(worlds)] for i in range(count)]
        result = []
        for i, world in enumerate(starts):
            mean, spread = world.outcome(option)
            noise = int(np.searchsorted(np.cumsum(world.posterior.weight), (i + 0.5) / count * (1 - 1e-12)))
            part = int(((i + 1) * _STEPS[0] * step) % 1 * mean.shape[1])
            value = mean[noise, part] + spread[noise] * ndtri(((i + 1) * _STEPS[1] * step) % 1)
            points = list(world.points)
            points[option.group] = _with_run(points[option.group], option, float(value))
            own = list(world.own)
            own[option.group] = self._particles(points[option.group])
            result.append(self._world(points, own))
        return result


def smallest_size(points: Sequence[Points], question: Question, candidates: Sequence[Candidate]) -> float:
    """Return the smallest size of a study: measured, or open."""
    sizes = [float(n) for item in points for n in item.n] + [item.n for item in candidates if item.n > 0]
    return min(sizes, default=question.at)


def _with_run(points: Points, option: Option, value: float) -> Points:
    """Return a group's points with one more run of this log error."""
    if option.kind == "scratch":
        count = len(points.scratch)
        less = points.scratch_variance * count / (count + 1)
        return replace(points, scratch=np.append(points.scratch, value), scratch_variance=less)
    if option.kind == "draw":
        runs, level = points.runs.copy(), points.log_error.copy()
        level[option.place] += (value - level[option.place]) / (runs[option.place] + 1)
        runs[option.place] += 1
        return replace(points, runs=runs, log_error=level)
    return replace(
        points,
        n=np.append(points.n, option.first.n),
        log_error=np.append(points.log_error, value),
        runs=np.append(points.runs, points.usual_runs),
        seeds=(*points.seeds, option.first.seed) if points.seeds else (),
    )


def _one_less(lacking: dict[int, int], option: Option) -> dict[int, int]:
    """Return how many pre-training runs groups lack once a run is done."""
    done = option.group if option.pretrains else -1
    return {group: count - (group == done) for group, count in lacking.items() if count > (group == done)}


def _mean(values: Sequence[Value]) -> Value:
    """Return the mean over imagined outcomes."""
    wrong, doubt, settles = np.mean([[v.ahead.wrong, v.ahead.doubt, v.ahead.settles] for v in values], axis=0)
    gain, insight = np.mean([[v.gain, v.insight] for v in values], axis=0)
    return Value(float(gain), float(insight), Outlook(float(wrong), float(doubt), float(settles)))


def _order(
    options: Sequence[Option], values: Sequence[Value], prices: Sequence[float], lacking: Collection[int]
) -> list[int]:
    """Return the options in order: by gain per cost, or insight per cost where none gains by itself; by cost; by n.

    Before all of these come groups that only lack a few runs to be decided, by insight per cost.
    """
    gaining = any(value.gain >= LEAST_GAIN for value in values)

    def key(i: int) -> tuple[bool, float, float, bool, float]:
        first = options[i].group in lacking and options[i].pretrains
        gain = values[i].gain if gaining and not first else values[i].insight
        return not first, -gain / prices[i], prices[i], options[i].kind != "size", options[i].first.n

    return sorted(range(len(options)), key=key)
