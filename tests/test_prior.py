"""What a search knows before its first trial: other studies, a configuration to start with, a study taken over."""

import re
import shutil
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from optuna_session import loss, run  # the sessions of tests/test_optuna_sweep.py

from kaggle_runner.cli.shared import confirm_of
from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.machine.deadline import Deadline
from kaggle_runner.run.adopt import adopt, finish_adoption
from kaggle_runner.run.local_sweep import SweepOrder, begin_with
from kaggle_runner.run.points.covariance import Geometry
from kaggle_runner.run.points.gaussian_process import GaussianProcess
from kaggle_runner.run.points.next_point import Misfits, next_point
from kaggle_runner.run.points.prior import Known, in_words, known_of, lessons_of, observations, remember
from kaggle_runner.run.points.propose import Observation, Told, misleads, propose
from kaggle_runner.run.points.space import SearchSpace
from kaggle_runner.run.search import LONG, OptunaSearch, run_sweep
from kaggle_runner.study.journal import Study, confirm_directory, read_study, refuse_another
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec, read_start, read_sweep
from kaggle_runner.sweep.study_settings import OFF, Confirm

SWEEP = """
method: {method}
metric: {{name: eval/loss, goal: minimize}}
parameters:
  model: {{value: demo}}
  max_steps: {{value: {steps}}}
  learning_rate: {{distribution: log_uniform_values, min: 1.0e-5, max: {high}}}
  lora_r: {{values: [4, 8, 16, 32]}}
"""


def write(folder: Path, name: str = "sweep.yaml", *, method: str = "bayes", steps: int = 100,
          high: str = "1.0e-2") -> Path:
    path = folder / name
    path.write_text(SWEEP.format(method=method, steps=steps, high=high))
    return path


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of eight trials."""
    folder = tmp_path_factory.mktemp("earlier")
    run(write(folder), folder / "study", 8)
    return folder / "study"


def order(directory: Path, **options: Any) -> SweepOrder:
    return SweepOrder(directory=directory, deadline=Deadline(at=None, reason="none"), **{"count": 8, **options})


def best_after(spec: SweepSpec, count: int, prior: list[Observation]) -> float:
    past: list[Observation] = []
    for number in range(count):
        params = propose(spec, seed=1, number=number, past=past, defaults={"learning_rate": 2e-4, "lora_r": 8},
                         prior=prior).params
        past.append(Observation(params=params, told=Told.VALUE, value=loss(params)))
    return min(observation.value or 0.0 for observation in past)


def test_a_study_of_the_same_training_saves_trials(earlier: Path, tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path))
    seen = observations(lessons_of([earlier], spec), spec)
    assert [(one.surface, one.at) for one in seen] == [(0, None)] * 8
    first = propose(spec, seed=1, number=0, past=[], defaults={}, prior=seen)
    assert first.origin == "prior"
    assert loss(first.params) == read_study(earlier).best.result.metric
    assert best_after(spec, 2, seen) <= best_after(spec, 6, [])


def seen_by(path: Path, *directories: Path) -> list[Observation]:
    spec = read_sweep(path)
    return observations(lessons_of(directories, spec), spec)


def test_other_steps_are_another_surface_and_values_outside_stay_where_they_were_measured(earlier: Path,
                                                                                        tmp_path: Path) -> None:
    longer = seen_by(write(tmp_path, steps=200), earlier)
    assert {(one.surface, one.at) for one in longer} == {(1, None)}
    path = write(tmp_path, high="3.0e-4")
    outside = [one for one in seen_by(path, earlier) if one.at]
    assert outside
    assert {one.surface for one in outside} == {0}
    assert all(one.at["learning_rate"] > 3e-4 and loss(one.at) == one.value for one in outside)
    assert all(one.params["learning_rate"] == pytest.approx(3e-4) for one in outside)
    both = seen_by(write(tmp_path, steps=200, high="3.0e-4"), earlier)
    assert in_words(both) == "8 trials of other studies: 8 trained otherwise"
    space, known = SearchSpace.of(read_sweep(path)), outside[0].at
    assert space.places_anywhere(known)[0] == pytest.approx(
        np.log(known["learning_rate"] / 1e-5) / np.log(3e-4 / 1e-5))
    levels = space.axes["lora_r"]
    assert [levels.place_anywhere(rank) for rank in (2, 4, 16, 64)] == pytest.approx([-1, 0, 2, 4])
    assert 2 < levels.place_anywhere(24) < 3


WIDE, NARROW = "1.0e-2", "3.0e-4"


@pytest.mark.parametrize("takes_over", [True, False])
def test_a_narrower_range_begins_with_what_is_nearest_to_the_best_and_goes_on_from_there(
        takes_over: bool, earlier: Path, tmp_path: Path) -> None:
    directory, narrow, said = tmp_path / "study", write(tmp_path, high=NARROW), []
    if takes_over:
        shutil.copytree(earlier, directory)
    known = begin_with(read_sweep(narrow), order(directory, count=8, adopts=takes_over,
                                                 prior_studies=() if takes_over else (earlier,)),
                       lambda event: said.append(event.text))  # type: ignore[attr-defined]
    if known is not None:
        spec = read_sweep(narrow)
        with Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                    seed=0) as study:
            study.append(known.as_event())
    outside = sum(record.trial.params["learning_rate"] > float(NARROW) for record in read_study(earlier).records)
    kept = len(read_study(directory).records)
    assert kept == (8 - outside if takes_over else 0)
    assert said[-1].startswith(
        f"{kept} trials count here too, {outside} are only learned from, 0 are left behind; " if takes_over else
        f"known from before: 8 trials of other studies: {8 - outside} trained alike, {outside} trained alike outside")
    run(narrow, directory, kept + 3)
    new = [record.trial for record in read_study(directory).records[kept:]]
    best = read_study(earlier).best.trial.params
    assert (new[0].origin, new[0].params["lora_r"]) == ("prior", best["lora_r"])
    assert new[0].params["learning_rate"] == pytest.approx(3e-4)
    assert new[-1].params["learning_rate"] > 1.5e-4  # near the end that the best lies beyond


def test_a_range_that_was_narrowed_and_widened_again_is_as_one_that_was_not(earlier: Path, tmp_path: Path) -> None:
    directory = tmp_path / "study"
    shutil.copytree(earlier, directory)
    wide, narrow = (read_sweep(write(tmp_path, f"{high}.yaml", high=high)) for high in (WIDE, NARROW))
    cut, params = Study(directory), {**read_study(directory).records[0].trial.params, "learning_rate": 2.5e-4}
    cut.record_start(Trial(id="0008", number=8, params=params), {})
    cut.record_end(TrialResult(id="0008", status=Status.FAILED, metric=None, reason="x"))
    adopt(directory, narrow)
    taught, before = ({(one.params["learning_rate"], one.params["lora_r"], one.value) for one in observations(
        lessons_of([folder], wide), wide)} for folder in (directory, earlier))
    assert taught == before, "as a study before another one it teaches what it has learned, too"
    shutil.copytree(directory, tmp_path / "direct")
    run(write(tmp_path, high=NARROW), directory, len(read_study(directory).records) + 2)
    new = len(read_study(directory).records)
    outside = len(known_of(read_study(directory)).lessons)
    assert new == 8 - outside + 1 + 2
    direct = Study(tmp_path / "direct")  # which was told of its own trials under their former names, too
    remember(Known(lessons=lessons_of([tmp_path / "study.before-1"], narrow)), direct)
    longer = read_sweep(write(tmp_path, "other.yaml", steps=200))
    shutil.copytree(direct.directory, tmp_path / "third")
    assert adopt(tmp_path / "third", longer).learned == 8
    back = adopt(direct.directory, wide)
    assert (back.kept, back.returned, back.learned, back.left) == (8 + 1, outside, 0, 0)
    adopt(directory, longer)  # with a turn in between
    back = adopt(directory, wide)
    assert (back.kept, back.returned, back.learned, back.left) == (8 + 1 + 2, 8 + 1 + 2, 0, 0)
    after = read_study(directory)
    assert [(record.trial.params, record.result.metric) for record in after.records[:8]] == [
        (record.trial.params, record.result.metric) for record in read_study(earlier).records]
    assert after.best.result.metric == min(record.result.metric for record in after.ranked)
    assert known_of(after).lessons == ()
    shutil.rmtree(tmp_path / "study.before-1")  # what is gone is still learned from, where it was measured
    adopt(directory, narrow)
    for folder in tmp_path.glob("study.before-*"):
        shutil.rmtree(folder)
    alone = adopt(directory, wide)
    assert (alone.returned, alone.learned) == (0, outside)
    assert {one.at for one in observations(known_of(read_study(directory)).lessons, wide)} == {None}


def test_a_study_that_is_given_by_several_paths_or_lies_twice_teaches_once(
        earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_sweep(write(tmp_path))
    (tmp_path / "link").symlink_to(earlier)
    shutil.copytree(earlier, tmp_path / "copy")
    monkeypatch.chdir(earlier.parent)
    paths = [earlier, Path("study"), Path("../") / earlier.parent.name / "study", tmp_path / "link", tmp_path / "copy"]
    assert len(lessons_of(paths, spec)) == 8
    with Study.open_for_writing(tmp_path / "new", name="new", sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=0) as study:
        for path in paths:
            study.append(Known(lessons=lessons_of([path], spec)).as_event())
    assert len(known_of(read_study(tmp_path / "new")).lessons) == 8


def test_a_study_and_what_it_was_before_a_change_teach_once(earlier: Path, tmp_path: Path) -> None:
    """Also where one of them was confirmed since, so that its best trial tells the mean over more seeds."""
    directory, other = tmp_path / "study", tmp_path / "new"
    shutil.copytree(earlier, directory)
    wide = read_sweep(write(tmp_path, high="2.0e-2"))
    kept = adopt(directory, wide)
    best = read_study(directory).best.trial
    trials = [Trial(id=f"{n:04d}", number=n, params={**record.trial.params, "seed": 43},
                    origin=f"trial {record.trial.id}") for n, record in enumerate(read_study(directory).ranked[:2])]
    with Study.open_for_writing(confirm_directory(directory), name="c", sweep={"parameters": {}},
                                metric="eval/loss", goal="minimize", seed=0) as study:
        for trial in trials:
            study.record_start(trial, {})
            study.record_end(TrialResult(id=trial.id, status=Status.COMPLETE, metric=2.5))
    for paths in ([directory, kept.aside], [kept.aside, directory]):
        lessons = lessons_of(paths, wide)
        assert len(lessons) == 8
        assert sum(lesson.measured is not None for lesson in lessons) == 2
        with Study.open_for_writing(other, name="new", sweep=wide.raw, metric=wide.metric, goal=wide.goal,
                                    seed=0) as study:
            for path in paths:
                remember(Known(lessons=lessons_of([path], wide)), study)
        assert len(known_of(read_study(other)).lessons) == 8
        shutil.rmtree(other)
    seen = next(one for one in observations(lessons_of([directory], wide), wide) if one.is_winner)
    own = [Observation(params=record.trial.params, told=Told.VALUE, value=record.result.metric)
           for record in read_study(directory).records]
    assert (seen.params, seen.value) == (own[best.number].params, (seen.measured + 2.5) / 2)
    known = [propose(wide, seed=1, number=8, past=own, defaults={}, prior=prior).params for prior in ([seen], [])]
    assert known[0] == known[1]


def test_a_tied_value_that_comes_out_otherwise_is_another_training(tmp_path: Path) -> None:
    text = write(tmp_path).read_text()
    for name, alpha in (("old", "16"), ("new", '"2 * lora_r"')):
        (tmp_path / f"{name}.yaml").write_text(f"{text}  lora_alpha: {{value: {alpha}}}\n")
    run(tmp_path / "old.yaml", tmp_path / "study", 5)
    seen = seen_by(tmp_path / "new.yaml", tmp_path / "study")
    assert {one.params["lora_r"]: one.surface for one in seen} == {
        rank: 0 if rank == 8 else 1 for rank in {one.params["lora_r"] for one in seen}}
    assert len({one.surface for one in seen}) == 2


def test_what_was_known_before_a_study_was_taken_over_is_seen_as_the_new_file_trains(earlier: Path,
                                                                                    tmp_path: Path) -> None:
    spec, directory = read_sweep(write(tmp_path)), tmp_path / "study"
    with Study.open_for_writing(directory, name="s", sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=0) as study:
        study.append(Known(lessons=lessons_of([earlier], spec)).as_event())
    for surface, path in ((0, write(tmp_path, "wider.yaml", high="1.0e-1")),
                          (1, write(tmp_path, "shorter.yaml", steps=10, high="1.0e-1"))):
        assert adopt(directory, read_sweep(path)).learned == 8
        found = observations(known_of(read_study(directory)).lessons, read_sweep(path))
        assert [one.surface for one in found] == [surface] * 8


def test_where_every_share_is_0_the_losses_say_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "shares.yaml"
    path.write_text(write(tmp_path).read_text().replace("loss, goal: minimize", "exact_match, goal: maximize"))
    spec = read_sweep(path)
    run(path, tmp_path / "study", 8, train=lambda trial: TrialResult(
        id=trial.id, status=Status.COMPLETE, metric=0.0,
        metrics={"eval/exact_match": 0.0, "eval/loss": loss(trial.params)}))
    best = read_study(tmp_path / "study").best
    first = propose(spec, seed=1, number=0, past=[], defaults={},
                    prior=observations(lessons_of([tmp_path / "study"], spec), spec))
    assert (first.origin, loss(first.params)) == ("prior", loss(best.trial.params))
    assert loss(first.params) == min(loss(record.trial.params) for record in read_study(tmp_path / "study").records)


GRID = {"learning_rate": "{values: [0.001, 0.002, 0.003]}", "lora_r": "{values: [4, 8]}"}


def test_a_study_that_becomes_a_grid_repeats_no_point_and_skips_none(tmp_path: Path) -> None:
    parts, directory = write(tmp_path).read_text().partition("  learning_rate"), tmp_path / "study"
    for method in ("random", "grid"):
        (tmp_path / f"{method}.yaml").write_text(parts[0].replace("bayes", method) + "".join(
            f"  {name}: {values}\n" for name, values in GRID.items()))
    run(tmp_path / "random.yaml", directory, 8)  # which draws points twice
    before = [tuple(record.trial.params.values()) for record in read_study(directory).records]
    adopted = adopt(directory, read_sweep(tmp_path / "grid.yaml"))
    assert (adopted.kept, adopted.left) == (len(set(before)), 8 - len(set(before)))
    assert "0 are kept for a file that learns" in adopted.as_lines()[-1]
    assert adopted.kept < 6
    end = run(tmp_path / "grid.yaml", directory, 99)
    after = [tuple(record.trial.params.values()) for record in read_study(directory).records]
    assert sorted(after) == sorted(tuple(point.values()) for point in read_sweep(tmp_path / "grid.yaml").grid())
    assert end.reason == "every point of the sweep has been tried, 6 in all"


@pytest.mark.parametrize(("goal", "of_prior", "of_default", "is_so"), [
    ("minimize", 2.0, 1.0, True), ("minimize", 1.0, 2.0, False), ("maximize", 1.0, 2.0, True),
    ("maximize", 2.0, 1.0, False), ("minimize", None, 1.0, False), ("minimize", 2.0, None, False)])
def test_other_studies_mislead_where_their_best_comes_out_worse_than_the_default(
        goal: str, of_prior: float | None, of_default: float | None, is_so: bool, tmp_path: Path) -> None:
    space = SearchSpace.of(read_sweep(write(tmp_path)))
    known, default = ({**space.fixed, "learning_rate": rate, "lora_r": 8} for rate in (1e-3, 2e-4))
    prior = [Observation(params=known, told=Told.VALUE, value=1.5, surface=1)]
    values = [Observation(params=params, told=Told.VALUE, value=value)
              for params, value in ((known, of_prior), (default, of_default)) if value is not None]
    assert misleads(prior, space, goal, default, values) is is_so


def test_the_same_computation_that_is_known_and_was_made_again_counts_once(earlier: Path, tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path))
    prior = observations(lessons_of([earlier], spec), spec)
    past = [Observation(params=spec.with_tied(one.params), told=Told.VALUE, value=one.value) for one in prior[:4]]
    space = SearchSpace.of(spec)
    twice, once = (next_point(space, past, spec.goal, 1, home=space.key(prior[0].params), prior=known,
                              misfits=Misfits(space, past))
                   for known in (prior, prior[4:]))
    assert twice == once


def test_how_far_another_surface_can_be_trusted_is_learned() -> None:
    own = np.linspace(0.1, 0.9, 5)
    points = np.concatenate([own, np.linspace(0, 1, 12)])[:, None]
    fitted = {}
    for name, other in (("like it", lambda x: (x - 0.3) ** 2), ("unlike it", lambda x: np.sin(40 * x))):
        values = [*((own - 0.3) ** 2), *(5 + other(points[5:, 0]))]
        process = GaussianProcess.fit(points, values, Geometry(axis_of=(0,)), surfaces=[0] * 5 + [1] * 12,
                                      generator=np.random.default_rng(0))
        fitted[name] = float(process.weights_K @ process.kernel.kinships_K1[:, 0])
        assert process.best().shape == process.weights_K.shape
    assert fitted["like it"] > 0.7 > fitted["unlike it"]


@pytest.mark.parametrize("shift", [-0.35, 0.35])
def test_by_how_much_what_is_best_lies_elsewhere_than_in_another_study_is_learned(shift: float) -> None:
    own, other = np.linspace(0.05, 0.95, 10), np.linspace(0, 1, 20)
    values = [*-np.exp(-((own - 0.5) / 0.2) ** 2), *(3 - np.exp(-((other - 0.5 + shift) / 0.2) ** 2))]
    process = GaussianProcess.fit(np.concatenate([own, other])[:, None], values, Geometry(axis_of=(0,), wells=(0,)),
                                  surfaces=[0] * 10 + [1] * 20, generator=np.random.default_rng(0))
    assert float(process.weights_K @ process.kernel.shifts_KW[:, 0]) == pytest.approx(shift, abs=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_a_study_whose_best_rate_lies_elsewhere_does_not_hold_a_search_there(seed: int, tmp_path: Path) -> None:
    """The other study was best at the upper end; here that is better than the default, and the best lies between."""
    spec, noise = read_sweep(write(tmp_path)), np.random.default_rng(seed)

    def measured(rate: float, best: float) -> float:
        return 0.1 * np.log10(rate / best) ** 2 + 0.001 * noise.standard_normal()

    prior = [Observation(params={**spec.fixed, "learning_rate": rate, "lora_r": rank}, told=Told.VALUE, surface=1,
                         value=1 + measured(rate, 2e-2))
             for rate, rank in zip([1e-4, *np.geomspace(1e-5, 1e-2, 5), 8e-3, 9e-3, 1e-2, 9.5e-3],
                                   [4, 8, 16, 32, 4, 8, 16, 32, 4, 8], strict=True)]
    past: list[Observation] = []
    for number in range(8):
        params = propose(spec, seed=seed, number=number, past=past, defaults={"learning_rate": 2e-5, "lora_r": 8},
                         prior=prior).params
        past.append(Observation(params=params, told=Told.VALUE, value=measured(params["learning_rate"], 7e-4)))
    rates = [one.params["learning_rate"] for one in past]
    assert min(abs(np.log10(rate / 7e-4)) for rate in rates) < 0.3, rates
    assert sum(rate > 7e-3 for rate in rates) <= 4, rates


def test_what_is_known_is_in_the_journal_so_a_session_without_the_option_goes_on_alike(earlier: Path,
                                                                                       tmp_path: Path) -> None:
    sweep = write(tmp_path, steps=200)
    spec, rows = read_sweep(sweep), {}
    for name, counts in (("whole", (6,)), ("cut", (2, 6))):
        directory = tmp_path / name
        known = begin_with(spec, order(directory, prior_studies=(earlier,), start={"lora_r": 32}), lambda event: None)
        with Study.open_for_writing(directory, name="s", sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                    seed=0) as study:
            for _ in range(2):  # the same option again adds nothing
                remember(known, study)
            assert len(study.snapshot().known) == 1
        for count in counts:
            run(sweep, directory, count)
        snapshot = read_study(directory)
        assert len(known_of(snapshot).lessons) == 8
        rows[name] = [(record.trial.origin, dict(record.trial.params)) for record in snapshot.records]
    assert rows["whole"] == rows["cut"]
    assert [origin for origin, _ in rows["whole"]][:3] == ["given", "prior", "model"]
    assert rows["whole"][0][1]["lora_r"] == 32


def test_another_sampler_learns_from_what_was_trained_alike_and_says_so(earlier: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for steps, text in ((100, "known from before: 8 trials of other studies"),
                        (200, "known from before: 8 trials of other studies: 8 trained otherwise; optuna-tpe learns "
                              "from those within the ranges that were trained alike, and not from the other 8")):
        path = write(tmp_path, steps=steps)
        path.write_text(f"sampler: optuna-tpe\n{path.read_text()}")
        spec = read_sweep(path)
        begin_with(spec, order(tmp_path / "study", prior_studies=(earlier,)),
                   lambda event: said.append(event.text))  # type: ignore[attr-defined]
        assert said[-1] == text
        prior = observations(lessons_of([earlier], spec), spec)
        past = [Observation(params={**prior[0].params, "learning_rate": rate}, told=Told.VALUE, value=9.0)
                for rate in (2e-5, 5e-5, 2e-4)]
        answers = [propose(spec, seed=1, number=3, past=past, defaults={}, prior=known, sampler="optuna-tpe").params
                   for known in ((), prior)]
        assert (answers[0] == answers[1]) is (steps == 200)


@pytest.mark.parametrize(("options", "change", "said"), [
    ({"prior_studies": ("nowhere",)}, {}, "is not a study"),
    ({"prior_studies": ("study",)}, {}, "is the study itself"),
    ({"prior_studies": ("earlier",)}, {"method": "random"}, r"method: random learns from no trial"),
    ({"prior_studies": ("empty",)}, {}, "has no complete trial, so there is nothing to learn from it"),
    ({"prior_studies": ("other",)}, {}, r"was judged by eval/accuracy \(maximize\), this sweep by eval/loss"),
    ({"start": {"lora_r": 4}}, {}, "has its first trial already"),
])
def test_what_teaches_nothing_is_refused_in_a_line(options: Mapping[str, Any], change: Mapping[str, str], said: str,
                                                   earlier: Path, tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, **change))
    for name, metric, goal in (("empty", "eval/loss", "minimize"), ("other", "eval/accuracy", "maximize")):
        with Study.open_for_writing(tmp_path / name, name=name, sweep={}, metric=metric, goal=goal, seed=0):
            pass
    places = {"earlier": earlier, "study": tmp_path / "study"}
    given = {name: value if name == "start" else tuple(places.get(folder, tmp_path / folder) for folder in value)
             for name, value in options.items()}
    directory = earlier if "start" in options else tmp_path / "study"
    with pytest.raises((StudyError, SweepError), match=said):
        begin_with(spec, order(directory, **given), lambda event: None)


def test_what_a_configuration_to_start_with_holds_otherwise_is_said_in_a_line(tmp_path: Path) -> None:
    sweep, start, said = tmp_path / "sweep.yaml", tmp_path / "start.yaml", list[str]()
    sweep.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n"
                     "  max_steps: {value: 100}\n  weight_decay: {value: 1.0e-2}\n  lora_alpha: {value: 2 * lora_r}\n"
                     "  columns: {value: {prompt: a, completion: b}}\n  lora_r: {values: [4, 8]}\n")
    start.write_text("lora_r: 8\nmax_steps: 200\nweight_decay: 1e-2\nlora_alpha: 99\nseed: 42\nlora_dropout: 0.3\n"
                     "columns: {prompt: a, completion: b}\n")
    assert read_start(start, read_sweep(sweep), said.append) == {"lora_r": 8}
    assert said == ["--start: trials have the sweep's own max_steps 100, not 200; lora_alpha 16, not 99; lora_dropout "
                    "0.05, not 0.3"]


@pytest.mark.parametrize(("text", "wanted", "told"), [
    ("parameters: {a: {parameters: {learning_rate: {value: 3e-3}}}, lora_r: {value: 16}}", (3e-3, 16), ""),
    ("parameters: {learning_rate: {value: lora_r / 10000}, lora_r: {values: [16]}}", (0.0016, 16), ""),
    ("learning_rate: lora_r / 10000\nlora_r: 16", (0.0016, 16), ""),
    ("optimizer: {learning_rate: 3e-3}\nlora_r: 16", (3e-3, 16), ""),
    ("wandb_version: 1\n_wandb: {desc: null, value: {cli: 1}}\n_study: {value: a}\nlora_r: {desc: null, value: 16}\n"
     "optimizer: {value: {learning_rate: 3e-3}}", (3e-3, 16), ""),
    ("parameters: {learning_rate: {min: 1e-4, max: 1e-3}, lora_r: {value: 16}}", (None, 16),
     "--start: trials have the sweep's own learning_rate, which has several values there"),
    ("parameters: {learning_rate: {values: [1e-4, 1e-3]}, lora_r: {value: 16}}", (None, 16),
     "--start: trials have the sweep's own learning_rate, which has several values there")])
def test_a_configuration_to_start_with_may_be_nested_tied_or_a_runs_own(
        text: str, wanted: tuple[float | None, int], told: str, tmp_path: Path) -> None:
    start, said = tmp_path / "start.yaml", list[str]()
    start.write_text(text)
    found = read_start(start, read_sweep(write(tmp_path)), said.append)
    assert (found.get("learning_rate"), found["lora_r"]) == wanted
    assert " ".join(said) == told


@pytest.mark.parametrize("text", ["max_steps: 7\n", "parameters: {max_steps: {value: 7}}\n",
                                  "parameters: {lora_r: {values: [8, 16]}}\n"])
def test_a_configuration_that_names_nothing_searched_is_refused_by_what_is(text: str, tmp_path: Path) -> None:
    start = tmp_path / "start.yaml"
    start.write_text(text)
    with pytest.raises(SweepError, match=r"1 problem\n  parameters: names nothing that .* searches \(learning_rate, "):
        read_start(start, read_sweep(write(tmp_path)))


def test_a_configuration_to_start_with_is_a_plain_file_or_a_sweep_file_of_fixed_values(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path))
    best = tmp_path / "best.yaml"
    for text in ("learning_rate: 3.0e-3\nlora_r: 16\nmax_steps: 7\n",
                 "parameters:\n  learning_rate: {value: 3.0e-3}\n  lora_r: {value: 16}\n"):
        best.write_text(text)
        assert read_start(best, spec) == {"learning_rate": 3e-3, "lora_r": 16}
    for text, said in (("max_steps: 7\n", r"names nothing that .* searches \(learning_rate, lora_r\)"),
                       ("lora_rr: 7\n", "\n  lora_rr: no such hyperparameter; did you mean 'lora_r'"),
                       ("lora_r: -1\n", "\n  lora_r: must be at least 1"), ("", "the file is empty; write one on each"),
                       ("trainer: charlm\nlearning_rate: 0.1\n", r"trainer: is 'charlm', but .* trains with finetune"),
                       ("parameters: {lora_r: {value: 0}}\n", r"parameters.lora_r.value: must be at least 1"),
                       ("- 1\n", "must be a mapping with hyperparameters"), ("studies: {}\n", "is a tuning plan")):
        best.write_text(text)
        with pytest.raises(SweepError, match=said):
            read_start(best, spec)


def test_a_configuration_to_start_with_is_checked_beside_what_the_sweep_holds_fixed(tmp_path: Path) -> None:
    sweep, start = tmp_path / "char.yaml", tmp_path / "start.yaml"
    sweep.write_text(
        "method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters:\n  trainer: {value: charlm}\n"
        "  batch_size: {values: [8, 16]}\n  max_length: {value: 16}\n  max_tokens: {value: 2560}\n")
    start.write_text("batch_size: 16\nmax_tokens: 1\n")  # the sweep has its own max_tokens, the default is too few
    assert read_start(start, read_sweep(sweep)) == {"batch_size": 16}
    start.write_text("batch_size: 300\n")
    with pytest.raises(SweepError, match=r"1 problem\n  max_tokens: must be at least the 4800 of one step"):
        read_start(start, read_sweep(sweep))


@pytest.mark.parametrize(("options", "change", "said"), [
    ({"prior_studies": ("nowhere",)}, {}, "is not a study"),
    ({"prior_studies": ("study",)}, {}, "is the study itself"),
    ({"prior_studies": ("earlier",)}, {"method": "random"}, r"method: random learns from no trial"),
    ({"start": {"lora_r": 4}}, {}, "has its first trial already"),
    ({"count": None}, {}, "run_cap: missing"),
    ({"seed": 7}, {}, "was made with seed 0, not 7")])
def test_what_is_refused_beside_a_changed_file_is_refused_before_the_study_changes(
        options: Mapping[str, Any], change: Mapping[str, str], said: str, earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier, tmp_path / "study")
    spec = read_sweep(write(tmp_path, high="3.0e-4", **change))
    places = {"earlier": earlier, "study": tmp_path / "study", "nowhere": tmp_path / "nowhere"}
    given = {name: tuple(places[folder] for folder in value) if name == "prior_studies" else value
             for name, value in options.items()}
    with pytest.raises((StudyError, SweepError), match=said):
        begin_with(spec, order(tmp_path / "study", adopts=True, **given), lambda event: None)
    assert (tmp_path / "study" / "trials.jsonl").read_text() == (earlier / "trials.jsonl").read_text()
    assert not list(tmp_path.glob("study.*"))


def test_a_configuration_outside_of_the_ranges_is_said_to_begin_at_their_nearest_point(tmp_path: Path) -> None:
    said: list[str] = []
    begin_with(read_sweep(write(tmp_path)), order(tmp_path / "study", start={"learning_rate": 5.0, "lora_r": 8}),
               lambda event: said.append(event.text))  # type: ignore[attr-defined]
    assert said == ["--start: learning_rate 5 is none of this sweep's values; the first trial has the nearest, 0.01"]


def test_a_study_that_cannot_be_taken_over_stays_as_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    run(write(tmp_path), directory, 3)
    before = (directory / "trials.jsonl").read_text()
    other = tmp_path / "char.yaml"
    other.write_text("method: bayes\nmetric: {name: eval/loss, goal: minimize}\nparameters: {trainer: {value: charlm}, "
                     "learning_rate: {values: [0.001, 0.002]}}\n")
    wider = read_sweep(write(tmp_path, "wider.yaml", high="1.0e-1"))
    for spec, seed, said in ((read_sweep(other), None, "study trained with finetune, this sweep trains with charlm"),
                             (wider, 7, "was made with seed 0, not 7")):
        with pytest.raises(StudyError, match=said):
            adopt(directory, spec, seed)
        assert (directory / "trials.jsonl").read_text() == before
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["study"]


def test_a_wider_range_keeps_every_trial(earlier: Path, tmp_path: Path) -> None:
    directory = tmp_path / "study"
    run(write(tmp_path), directory, 6)
    before = read_study(directory)
    (directory / "trials" / "0002" / "history.jsonl").write_text('{"step": 1}\n')
    wider = write(tmp_path, "wider.yaml", high="1.0e-1")
    for refuse in (lambda: run(wider, directory, 7), lambda: refuse_another(directory, read_sweep(wider).raw)):
        with pytest.raises(StudyError, match=r"parameters.learning_rate differ; .* with --adopt what still counts"):
            refuse()
    found = adopt(directory, read_sweep(wider))
    assert (found.kept, found.learned, found.left) == (6, 0, 0)
    assert found.changes == ("parameters.learning_rate: {distribution: log_uniform_values, min: 1e-05, max: 0.01} -> "
                             "{distribution: log_uniform_values, min: 1e-05, max: 0.1}",)
    after = read_study(directory)
    assert [(r.trial.params, r.result.metric) for r in after.records] == [
        (r.trial.params, r.result.metric) for r in before.records]
    assert after.history("0002") == [{"step": 1}]
    assert read_study(found.aside).info.sweep == before.info.sweep
    run(wider, directory, 9)
    assert [record.trial.id for record in read_study(directory).records] == [f"{i:04d}" for i in range(9)]
    assert adopt(directory, read_sweep(wider)) is None


def test_a_full_study_that_is_taken_over_by_part_has_room_for_its_confirmation(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    run(write(tmp_path), directory, 18)
    spec = read_sweep(write(tmp_path, "new.yaml", high=NARROW))
    fresh, taken = (confirm_of(spec, where, 20, None, adopts=True) for where in (tmp_path / "none", directory))
    assert fresh == taken == (Confirm(top=2, seeds=2), 16)
    assert confirm_of(read_sweep(write(tmp_path)), directory, 20, None, adopts=True) == (OFF, 20)


def test_trials_that_the_new_file_cannot_have_made_are_learned_from(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    run(write(tmp_path), directory, 6, train=lambda trial: TrialResult(
        id=trial.id, status=Status.FAILED if trial.number == 5 else Status.COMPLETE, metric=loss(trial.params),
        reason="x"))
    narrow = read_sweep(write(tmp_path, high="3.0e-4"))
    outside = sum(record.trial.params["learning_rate"] > 3e-4 for record in read_study(directory).records[:5])
    found = adopt(directory, narrow)
    assert outside
    assert (found.learned, found.kept + found.left) == (outside, 6 - outside)
    assert len(known_of(read_study(directory)).lessons) == outside
    longer = adopt(directory, read_sweep(write(tmp_path, steps=200)))
    assert longer.kept == 0
    assert len(known_of(read_study(directory)).lessons) == longer.learned == 5
    assert longer.aside.name == "study.before-2"


def test_a_kill_between_the_two_moves_is_mended(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    run(write(tmp_path), directory, 3)
    adopt(directory, read_sweep(write(tmp_path, "wider.yaml", high="1.0e-1")))
    directory.rename(tmp_path / "study.adopting")
    finish_adoption(directory)
    assert len(read_study(directory).records) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_long_sweep_ends_when_less_than_the_noise_is_expected_and_a_short_one_never(tmp_path: Path,
                                                                                      workers: int) -> None:
    spec = read_sweep(write(tmp_path))

    def trials(directory: Path, count: int, stops_early: bool) -> tuple[int, str]:
        noise = np.random.default_rng(0)

        def train(trial: Any) -> TrialResult:
            with turn:  # the journal is written by one at a time
                study.record_start(trial, {})
                result = TrialResult(id=trial.id, status=Status.COMPLETE,
                                     metric=loss(trial.params) / 100 + 0.05 * noise.standard_normal())
                study.record_end(result)
            return result

        turn = threading.Lock()
        with Study.open_for_writing(directory, name="s", sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                    seed=0) as study:
            search = OptunaSearch(study, spec, stops_early=stops_early)
            with ThreadPoolExecutor(workers) as pool:
                ends = [future.result() for future in [
                    pool.submit(run_sweep, search, run_trial=train, count=count) for _ in range(workers)]]
        return sum(end.trials_run for end in ends), ends[0].reason

    number, reason = trials(tmp_path / "long", 60, True)
    assert LONG <= number < 60
    # the model's own noise is no figure: it is a quarter to a half of what seeds change
    assert re.fullmatch(rf"after {number} trials another one is expected to improve eval/loss by [\d.e-]+, less than a "
                        r"quarter of what chance is to the search's model, which takes a part of the noise for an "
                        r"effect; --no-early-end goes on", reason)
    assert trials(tmp_path / "short", LONG, True)[0] == LONG
    assert trials(tmp_path / "asked", number + 2, False)[0] == number + 2


def test_a_thread_that_waits_for_the_others_begins_nothing_until_one_has_ended(tmp_path: Path) -> None:
    """Little is expected while a trial runs; that one then is a new best, and the search goes on."""
    spec = read_sweep(write(tmp_path))
    with Study.open_for_writing(tmp_path / "s", name="s", sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=0) as study:
        search, noise = OptunaSearch(study, spec, stops_early=True), np.random.default_rng(0)
        running = search.ask(60)
        while (beside := search.ask(60)) is not None:
            search.tell(running, TrialResult(id=running.id, status=Status.COMPLETE, metric=(
                loss(running.params) / 100 + 0.05 * noise.standard_normal())))
            running = beside
        assert running.number >= LONG
        assert not search.is_complete(60)
        search.tell(running, TrialResult(id=running.id, status=Status.COMPLETE, metric=-1.0))
        assert search.await_others(lambda: None), "the new best may have changed what is expected"
        assert (search.ask(60) is None) == search.is_complete(60), "nobody runs, so it is decided now"
