"""The model that chooses points: what it never tries twice, where it looks, and what it keeps away from."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kaggle_runner.run.points.covariance import Geometry, squares_of
from kaggle_runner.run.points.gaussian_process import GaussianProcess, spread
from kaggle_runner.run.points.next_point import Grid, Misfits
from kaggle_runner.run.points.observations import Observation, Told
from kaggle_runner.run.points.propose import propose
from kaggle_runner.run.points.space import SearchAxis, SearchSpace
from kaggle_runner.sweep.distributions import Choice, Parameter, Range
from kaggle_runner.sweep.expressions import Tied
from kaggle_runner.sweep.spec import SweepSpec

RATE = Range(distribution="log_uniform_values", low=1e-5, high=1e-1)
DROPOUT = Range(distribution="uniform", low=0.0, high=0.5)


def sweep(**parameters: Parameter) -> SweepSpec:
    return SweepSpec(source="s.yaml", name="s", method="bayes", metric="eval/loss", goal="minimize",
                     parameters=parameters, raw={"parameters": dict.fromkeys(parameters)})


def searched(spec: SweepSpec, loss: Callable[[Mapping[str, Any]], float], count: int, seed: int = 0
             ) -> list[Mapping[str, Any]]:
    past: list[Observation] = []
    for number in range(count):
        proposal = propose(spec, seed=seed, number=number, past=past, defaults={"learning_rate": 1e-3, "dropout": 0.1})
        assert proposal is not None
        past.append(Observation(params=proposal.params, told=Told.VALUE, value=loss(proposal.params)))
    return [observation.params for observation in past]


def decades(params: Mapping[str, Any], best: float) -> float:
    return abs(math.log10(params["learning_rate"] / best))


def test_every_point_of_a_countable_space_is_scored_and_none_is_tried_twice() -> None:
    spec = sweep(learning_rate=Choice(values=(1e-4, 3e-4, 1e-3, 3e-3)), lora_r=Choice(values=(8, 16, 32)),
                 weight_decay=Choice(values=(0.0, 0.1)))
    past: list[Observation] = []
    for number in range(24):
        proposal = propose(spec, seed=1, number=number, past=past, defaults={"learning_rate": 1e-3})
        assert proposal is not None
        assert proposal.origin != "random"
        past.append(Observation(params=proposal.params, told=Told.VALUE, value=decades(proposal.params, 3e-4)))
    assert len({tuple(observation.params.values()) for observation in past}) == 24
    assert propose(spec, seed=1, number=24, past=past, defaults={}) is None


@pytest.mark.parametrize("parameter", [
    Range(distribution="q_log_uniform_values", low=4, high=64, q=4),
    Range(distribution="q_normal", mu=16, sigma=6, q=4)])
def test_a_range_that_is_rounded_to_steps_is_never_left_to_chance(parameter: Range) -> None:
    spec, past, origins = sweep(lora_r=parameter), [], []  # type: ignore[var-annotated]
    for number in range(8):
        proposal = propose(spec, seed=1, number=number, past=past, defaults={"lora_r": 8})
        assert proposal is not None
        origins.append(proposal.origin)
        past.append(Observation(params=proposal.params, told=Told.VALUE, value=abs(proposal.params["lora_r"] - 20)))
    assert origins == ["defaults", "start", "start", *["model"] * 5]
    assert len({observation.params["lora_r"] for observation in past}) == 8


def test_many_values_without_an_order_are_one_column_and_equally_far_apart() -> None:
    generator = np.random.default_rng(0)
    spec = sweep(learning_rate=RATE, target_modules=Choice(values=tuple(f"layer {i}" for i in range(500))))
    grid = Grid(axes=tuple(SearchSpace.of(spec).axes.values()))
    places = np.array([[0.5, 3.0], [0.5, 4.0], [0.5, 499.0], [0.7, 3.0]])
    columns = grid.columns(places)
    assert columns.shape == (4, 2)
    assert squares_of(columns, columns, grid.codes).sum(0)[0].tolist() == pytest.approx([0, 1, 1, 0.04])
    few = Grid(axes=tuple(SearchSpace.of(sweep(kind=Choice(values=("a", "b", "c")))).axes.values()))
    coded = Geometry(axis_of=(0,), codes=(0,))
    codes, values = np.array([[0.0], [1.0], [2.0], [0.0], [1.0]]), [1.0, 2.0, 3.0, 1.1, 2.1]
    one_hot = few.columns(codes)
    plain = Geometry(axis_of=(0, 0, 0))
    state = generator.bit_generator.state
    left = GaussianProcess.fit(one_hot, values, plain, generator=generator).mean(one_hot)
    generator.bit_generator.state = state
    assert GaussianProcess.fit(codes, values, coded, generator=generator).mean(codes) == pytest.approx(left, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_is_nearly_the_same_as_an_earlier_one(seed: int) -> None:
    spec = sweep(learning_rate=RATE, dropout=DROPOUT)
    space = SearchSpace.of(spec)
    keys = [space.key(params) for params in searched(spec, lambda params: decades(params, 1e-3), 14, seed)]
    assert not [1 for at, key in enumerate(keys) for earlier in keys[:at] if space.is_near(key, earlier)]


def test_an_end_of_a_range_is_not_tried_while_the_best_lie_far_from_it_and_found_where_they_do_not() -> None:
    spec = sweep(learning_rate=RATE)
    inside = searched(spec, lambda params: decades(params, 1e-3) ** 2, 10)
    assert all(1.5e-5 < params["learning_rate"] < 7e-2 for params in inside)
    outside = searched(spec, lambda params: decades(params, 1.0) ** 2, 10)
    assert max(params["learning_rate"] for params in outside) > 8e-2


def test_the_first_points_lie_in_other_parts_of_every_range_than_the_default() -> None:
    for seed in range(20):
        first, *others = searched(sweep(learning_rate=RATE, dropout=DROPOUT), lambda params: 0.0, 3, seed)
        assert first == {"learning_rate": 1e-3, "dropout": 0.1}
        assert len({round(3.75 * (RATE.to_unit(params["learning_rate"]) - 0.1) - 0.5) for params in others}) == 2
        assert all(params["dropout"] > 0.18 for params in others)


def test_trials_that_run_at_the_same_time_have_different_learning_rates() -> None:
    spec = sweep(learning_rate=RATE, dropout=DROPOUT)
    past = [Observation(params=params, told=Told.VALUE, value=decades(params, 1e-3))
            for params in searched(spec, lambda params: decades(params, 1e-3), 6)]
    one = propose(spec, seed=0, number=6, past=past, defaults={})
    two = propose(spec, seed=0, number=7, past=[*past, Observation(params=one.params, told=Told.RUNNING)],
                  defaults={})
    places = [RATE.to_unit(proposal.params["learning_rate"]) for proposal in (one, two)]
    assert abs(places[0] - places[1]) >= 0.08


@pytest.mark.parametrize("seed", range(5))
def test_where_the_default_does_not_fit_what_fits_is_found(seed: int) -> None:
    spec = sweep(learning_rate=RATE, batch_size=Choice(values=(1, 2, 4, 8)),
                 max_length=Choice(values=(256, 512, 1024, 2048)))
    past: list[Observation] = []
    defaults = {"learning_rate": 1e-3, "batch_size": 2, "max_length": 512}
    while not past or past[-1].params["batch_size"] * past[-1].params["max_length"] > 512:
        proposal = propose(spec, seed=seed, number=len(past), past=past, defaults=defaults)
        assert proposal is not None
        past.append(Observation(params=proposal.params, told=Told.INFEASIBLE))
        assert len(past) <= 8, "of 16 pairs three fit"


@pytest.mark.parametrize("sampler", ["own", "optuna-tpe"])
@pytest.mark.parametrize("fits", [2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_what_did_not_fit_is_not_tried_again_with_what_memory_does_not_depend_on(sampler: Any, fits: int, seed: int
                                                                                 ) -> None:
    """No rate, no decay and no share of dropped weights makes a batch smaller; a batch that follows from one does."""
    spec = replace(sweep(learning_rate=RATE, lora_r=Choice(values=(2, 4, 8, 16)), weight_decay=DROPOUT,
                         lora_dropout=Range(distribution="uniform", low=0.05, high=0.5),
                         lora_alpha=Choice(values=(8, 16)), gradient_accumulation_steps=Choice(values=(1, 2, 4))),
                   tied={"batch_size": Tied.read("4 / gradient_accumulation_steps", is_whole=True)})
    past: list[Observation] = []
    for number in range(12):
        proposal = propose(spec, seed=seed, number=number, past=past, sampler=sampler,
                           defaults={"learning_rate": 1e-3, "lora_r": 16, "gradient_accumulation_steps": 1})
        assert proposal is not None
        batch, rank = proposal.params["batch_size"], proposal.params["lora_r"]
        past.append(Observation(params=proposal.params, told=Told.VALUE, value=decades(proposal.params, 1e-2))
                    if batch * rank <= fits else Observation(params=proposal.params, told=Told.INFEASIBLE))
    failed = [(o.params["batch_size"], o.params["lora_r"]) for o in past if o.told is Told.INFEASIBLE]
    assert len(set(failed)) == len(failed) >= 1, "of twelve pairs each is tried at most once"


def test_a_point_whose_memory_did_fit_another_time_may_be_tried_again() -> None:
    spec = sweep(learning_rate=RATE, lora_r=Choice(values=(8, 16)))
    past = [Observation(params={"learning_rate": 10 ** -(2 + number / 4), "lora_r": 8 if number % 4 else 16},
                        told=Told.INFEASIBLE if number == 5 else Told.VALUE, value=None if number == 5 else 16 - rank)
            for number, rank in enumerate((16, 8, 8, 8, 16, 8, 8))]
    proposal = propose(spec, seed=0, number=7, past=past, defaults={})
    assert proposal is not None
    places = np.array([list(SearchSpace.of(spec).places(proposal.params).values())])
    assert not Misfits(SearchSpace.of(spec), past).has(places)[0]
    assert Misfits(SearchSpace.of(spec), [past[5]]).has([[0.5, 0.0], [0.5, 1.0]]).tolist() == [True, True]
    assert not Misfits(SearchSpace.of(spec), past).has([[0.5, 0.0], [0.5, 1.0]]).any()


def test_what_needs_more_than_what_did_not_fit_does_not_fit_either() -> None:
    """Unless another setting follows from it, which may then need less."""
    spec = sweep(batch_size=Choice(values=(1, 2, 4)), lora_r=Choice(values=(8, 16)),
                 optim=Choice(values=("adamw_8bit", "adamw_torch", "sgd")))
    failed = Observation(params={"batch_size": 2, "lora_r": 8, "optim": "adamw_torch"}, told=Told.INFEASIBLE)
    points = [[0, 1, 1], [2, 0, 1], [2, 1, 1], [2, 1, 0]]
    assert Misfits(SearchSpace.of(spec), [failed]).has(points).tolist() == [False, True, True, False]
    larger = Observation(params={"batch_size": 4, "lora_r": 8, "optim": "adamw_torch"}, told=Told.VALUE, value=1.0)
    assert not Misfits(SearchSpace.of(spec), [failed, larger]).has(points).any()
    follows = replace(spec, tied={"max_length": Tied.read("1024 / batch_size", is_whole=True)})
    assert Misfits(SearchSpace.of(follows), [failed]).has(points).tolist() == [False, False, False, False]


@pytest.mark.parametrize(("workers", "beside"), [(2, 0), (3, 0), (4, 0)])
@pytest.mark.parametrize("others", [{"dropout": DROPOUT},
                                    {"dropout": DROPOUT, "weight_decay": DROPOUT, "lora_r": Choice(values=(4, 8, 16))}])
def test_trials_that_begin_at_the_same_time_have_learning_rates_that_tell_something_of_each_other(
        others: dict[str, Parameter], workers: int, beside: int) -> None:
    found = 0
    for seed in range(40):
        running: list[Observation] = []
        for number in range(workers):
            proposal = propose(sweep(learning_rate=RATE, **others), seed=seed, number=number, past=running,
                               defaults={"learning_rate": 1e-3})
            assert proposal is not None
            running.append(Observation(params=proposal.params, told=Told.RUNNING))
        rates = sorted(math.log10(trial.params["learning_rate"]) / 4 for trial in running)
        found += sum(b - a < 0.08 for a, b in itertools.pairwise(rates))
    assert found <= beside, "of forty sets"


@pytest.mark.parametrize("workers", [4, 8])
def test_many_that_begin_at_the_same_time_begin_at_other_learning_rates(workers: int) -> None:
    spec, running = sweep(learning_rate=RATE), []  # type: ignore[var-annotated]
    for number in range(workers):
        proposal = propose(spec, seed=0, number=number, past=running, defaults={"learning_rate": 1e-3})
        assert proposal is not None
        running.append(Observation(params=proposal.params, told=Told.RUNNING))
    rates = sorted(math.log10(trial.params["learning_rate"]) / 4 for trial in running)
    assert min(b - a for a, b in itertools.pairwise(rates)) > 0.25 / workers


def test_points_that_did_not_fit_keep_the_model_away() -> None:
    spec = sweep(lora_r=Range(distribution="int_uniform", low=1, high=64), learning_rate=RATE)
    past: list[Observation] = []
    for number in range(12):
        params = propose(spec, seed=0, number=number, past=past, defaults={"lora_r": 8, "learning_rate": 1e-3}).params
        fits = params["lora_r"] <= 40
        past.append(Observation(params=params, told=Told.VALUE if fits else Told.INFEASIBLE,
                                value=decades(params, 1e-3) - params["lora_r"] / 40 if fits else None))
    assert sum(observation.told is Told.INFEASIBLE for observation in past) <= 5


@pytest.mark.parametrize(("name", "is_rate"), [
    ("learning_rate", True), ("lr", True), ("init_lr", True), ("muon_lr", True), ("lora_r", False),
    ("lr_scheduler_type", False), ("min_lr_rate", False)])
def test_a_learning_rate_is_known_under_other_trainers_names(name: str, is_rate: bool) -> None:
    assert SearchAxis.of(name, RATE).is_rate is is_rate


def test_two_values_of_a_learning_rate_have_no_middle() -> None:
    assert not SearchAxis.of("learning_rate", Choice(values=(1e-4, 1e-3))).is_rate


def test_the_process_returns_to_what_it_was_told_and_is_unsure_in_between() -> None:
    points = np.linspace(0.05, 0.95, 10)[:, None]
    values = list((points[:, 0] - 0.36) ** 2)
    process = GaussianProcess.fit(points, values, Geometry(axis_of=(0,)), generator=np.random.default_rng(0))
    mean = process.mean(points)
    assert np.argsort(mean)[0] == np.argmin(values)
    assert np.corrcoef(mean, spread(np.array(values)))[0, 1] > 0.99
    _, deviation = process.predict(np.array([[0.05], [1.6]]))
    assert (deviation[:, 1] > deviation[:, 0]).all()


def test_lengths_learned_from_a_part_of_many_trials_hold_for_all_and_few_draws_judge() -> None:
    generator = np.random.default_rng(1)
    points = generator.random((150, 2))
    truth = (points[:, 0] - 0.7) ** 2
    process = GaussianProcess.fit(points, list(truth + 0.01 * generator.standard_normal(150)), Geometry(axis_of=(0, 1)),
                                  generator=np.random.default_rng(0))
    assert process.inverses_KNN.shape == (4, 150, 150), "an ask has its limit of CPU time"
    assert (process.kernel.lengths_KA[:, 1] > process.kernel.lengths_KA[:, 0]).all(), "the second axis does nothing"
    places = np.stack([np.linspace(0, 1, 51), np.full(51, 0.5)], axis=1)
    assert abs(places[np.argmin(process.mean(places)), 0] - 0.7) < 0.05
    # noise that is equal everywhere is, after the spreading, that of the good end
    assert 0.005 < process.noise * process.unit < 0.02


def test_spreading_keeps_the_order_and_squeezes_what_diverged() -> None:
    squeezed = spread(np.array([1.0, 1.01, 1.02, 1.1, 50.0]))
    assert (np.diff(squeezed) > 0).all()
    assert squeezed[-1] / squeezed[2] < 20
    low, lower = (spread(np.array([1.3, bottom, 1.0, 1.1, 1.3])) for bottom in (9.0, 900.0))
    assert (low == lower).all(), "the ground above a cliff looks the same, however deep it is"
    assert low[0] == low[4]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_little_is_expected_no_trial_is_measured_again_beside_another_one(seed: int) -> None:
    """The best rate is the lowest one, and the dropout does nothing: a search would walk along it in small steps."""
    noise = np.random.default_rng(seed)
    tried = searched(sweep(learning_rate=RATE, dropout=DROPOUT), lambda params: 2 + 0.03 * decades(params, 1e-5) ** 2
                     + 0.001 * noise.standard_normal(), 18, seed)
    places = [np.array([decades(params, 1e-5) / 4, params["dropout"] / 0.5]) for params in tried]
    beside = [number for number, place in enumerate(places)
              if any(np.abs(place - other).max() < 0.03 for other in places[:number])]
    assert len(beside) <= 5, np.round(places, 2).tolist()
