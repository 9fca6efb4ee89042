"""The embedded search: what it asks for, what it learns, and that a kill at any moment changes nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from kaggle_runner.errors import StudyError, SweepError
from kaggle_runner.run.search import OptunaSearch, SearchEnd, run_sweep
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status, Trial, TrialResult
from kaggle_runner.sweep.spec import SweepSpec, read_sweep
from tests import optuna_session
from tests.optuna_session import complete, run

LETTERS = "abcdefghijklmnop"  # a reason of its own for each trial: numbers in a reason do not count
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
    [str(Path(__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
SWEEP = """
method: {method}
metric: {{name: eval/loss, goal: {goal}}}
parameters:
  model: {{value: demo}}
  learning_rate: {{distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-1}}
  lora_r: {{values: [32, 8, 16]}}
  weight_decay: {{values: [0.0, 0.1]}}
"""


def write_sweep(folder: Path, text: str = SWEEP, method: str = "bayes", goal: str = "minimize") -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text.format(method=method, goal=goal))
    return path


@contextmanager
def opened(sweep: Path, directory: Path, seed: int = 0) -> Iterator[tuple[Study, SweepSpec]]:
    spec = read_sweep(sweep)
    with Study.open_for_writing(directory, name=spec.name, sweep=spec.raw, metric=spec.metric, goal=spec.goal,
                                seed=seed) as study:
        yield study, spec


def table(directory: Path) -> list[tuple[str, Mapping[str, Any], str, float | None]]:
    return [(r.trial.id, r.trial.params, r.trial.origin, r.result.metric if r.result else None)
            for r in read_study(directory).records]


def plain_optuna(directory: Path) -> optuna.Study:
    """Open the journal as somebody without this package would."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(directory / "optuna.journal")))
    return optuna.load_study(study_name=None, storage=storage)


def ended(trial: Trial, status: Status, kind: str = "", reason: str = "", metric: float | None = None) -> TrialResult:
    return TrialResult(id=trial.id, status=status, metric=metric, reason=reason, notes={"kind": kind} if kind else {})


def mixed(trial: Trial) -> TrialResult:
    """Some trials are pruned, fail or do not fit: the search learns from each in its way."""
    result = optuna_session.complete(trial)
    if trial.number == 2:
        return ended(trial, Status.INFEASIBLE, reason="needs 20 GiB")
    if trial.number == 3:
        return ended(trial, Status.FAILED, kind="not_finite", reason="loss is not finite at step 3")
    if trial.number == 5:
        return TrialResult(id=trial.id, status=Status.PRUNED, metric=result.evaluations[0][1], steps=10,
                           evaluations=result.evaluations[:1])
    return result


def session(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, optuna_session.__file__, *map(str, arguments)], stdout=subprocess.PIPE,
                            env=ENVIRONMENT, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep file and a study of six trials, the last three of them the model's, with a copy of it at every write."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    sweep, directory = write_sweep(folder), folder / "study"
    with opened(sweep, directory) as (study, spec):

        def copy(moment: str) -> None:
            shutil.copytree(directory, folder / "moments" / moment, ignore=shutil.ignore_patterns("study.lock"))

        def run_trial(trial: Trial) -> TrialResult:
            copy(f"{trial.id} asked")
            study.record_start(trial, dict(trial.params))
            copy(f"{trial.id} started")
            result = complete(trial)
            study.record_end(result)
            copy(f"{trial.id} ended")
            return result

        run_sweep(OptunaSearch(study, spec), run_trial=run_trial, count=6)
    return sweep, directory


class TestWhatIsAsked:
    def test_bayes_begins_with_the_defaults_then_two_points_away_from_them_then_the_model(
            self, uninterrupted: tuple[Path, Path]) -> None:
        _, directory = uninterrupted
        rows = table(directory)
        assert [origin for _, _, origin, _ in rows] == ["defaults", "start", "start", "model", "model", "model"]
        assert rows[0][1] == {"model": "demo", "learning_rate": 2e-4, "lora_r": 8, "weight_decay": 0.0}
        assert [trial_id for trial_id, *_ in rows] == ["0000", "0001", "0002", "0003", "0004", "0005"]

    def test_defaults_outside_the_space_move_to_its_nearest_point(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, """
            method: {method}
            metric: {{name: eval/loss, goal: {goal}}}
            parameters:
              learning_rate: {{distribution: log_uniform_values, min: 1.0e-3, max: 1.0e-1}}
              lora_alpha: {{values: [64, 128, 24]}}
              warmup_ratio: {{distribution: q_uniform, min: 0.1, max: 0.5, q: 0.1}}
              max_steps: {{distribution: int_uniform, min: 10, max: 20}}
              optim: {{values: [adamw_8bit, paged_adamw_8bit]}}
              early_stopping_patience: {{distribution: int_uniform, min: 1, max: 5}}
            """)
        with opened(sweep, tmp_path / "study") as (study, spec):
            params = OptunaSearch(study, spec).first_params()
        assert params == {"learning_rate": pytest.approx(1e-3), "lora_alpha": 24, "warmup_ratio": 0.1,
                          "max_steps": 20, "optim": "adamw_8bit", "early_stopping_patience": 5}

    def test_a_default_on_a_bound_is_taken_to_the_last_digit(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, SWEEP.replace("min: 1.0e-5, max: 1.0e-1", "min: 5.0e-6, max: 2.0e-4"))
        run(sweep, tmp_path / "study", 1)
        assert table(tmp_path / "study")[0][1]["learning_rate"] == 2e-4
        assert plain_optuna(tmp_path / "study").trials[0].params["learning_rate"] == pytest.approx(2e-4)

    def test_every_distribution_is_asked_within_its_range_and_kept_in_its_units(self, tmp_path: Path) -> None:
        from kaggle_runner.sweep.distributions import KEYS, Choice, Fixed, Range

        ends = {name: (1.0, 5.0) if "values" in name else (-3.0, 1.0) for name in KEYS if "log_uniform" in name}
        ranges = {name: Range(distribution=name, low=ends.get(name, (1.0, 9.0))[0], high=ends.get(name, (1.0, 9.0))[1],
                              q=0.25, sigma=0.5, a=2.0, b=3.0)
                  for name in KEYS if name not in ("constant", "categorical", "categorical_w_probabilities")}
        parameters = {**ranges, "constant": Fixed(value=[1, 2]), "switch": Choice(values=(False, True)),
                      "chance": Choice(values=("a", "b", "c"), probabilities=(0.5, 0.0, 0.5)),
                      "maybe": Choice(values=(None, 0, 2)), "lists": Choice(values=(["q"], ["q", "v"]))}
        spec = SweepSpec(source="all.yaml", name="all", method="bayes", metric="eval/loss", goal="minimize",
                         parameters=parameters, raw={"parameters": {}})
        with Study.open_for_writing(tmp_path / "study", name="all", sweep={}, metric="eval/loss", goal="minimize",
                                    seed=3) as study:
            search = OptunaSearch(study, spec)
            asked = []
            for number in range(7):
                trial = search.ask(7)
                asked.append(trial.params)
                assert spec.contains(trial.params), trial
                assert trial.params["chance"] != "b"
                search.tell(trial, ended(trial, Status.COMPLETE, metric=float(number % 3)))
        assert list(asked[0]) == list(parameters)
        kept = plain_optuna(tmp_path / "study").trials
        for name in ranges:
            assert [trial.params[name] for trial in kept] == [params[name] for params in asked], name
            assert len({params[name] for params in asked}) >= 3, name
        assert kept[0].params["lists"] in ('["q"]', '["q", "v"]')

    def test_falsy_choices_are_values_like_any_other(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, """
            method: {method}
            metric: {{name: eval/loss, goal: {goal}}}
            parameters:
              load_in_4bit: {{values: [false, true]}}
              lora_dropout: {{values: [0.0, 0.1]}}
              early_stopping_patience: {{values: [null, 2]}}
            """)
        asked: list[Mapping[str, Any]] = []
        train = remembering(asked, lambda trial: 1.0 + trial.params["load_in_4bit"] + trial.params["lora_dropout"])
        outcome = run(sweep, tmp_path / "study", 20, train=train)
        assert outcome.reason == "every point of the sweep has been tried, 8 in all"
        assert len(asked) == 8
        assert len({tuple(params.values()) for params in asked}) == 8
        assert {type(params["load_in_4bit"]) for params in asked} == {bool}

    def test_an_ordered_list_of_numbers_is_searched_in_its_order(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, """
            method: {method}
            metric: {{name: eval/loss, goal: {goal}}}
            parameters:
              lora_r: {{values: [64, 1, 32, 2, 128, 4, 16, 8, 256, 512, 1024, 2048]}}
              learning_rate: {{min: 1.0e-4, max: 2.0e-4}}
            """)
        asked: list[Mapping[str, Any]] = []
        run(sweep, tmp_path / "study", 9, train=remembering(
            asked, lambda trial: trial.params["lora_r"] ** 0.5))
        assert sum(params["lora_r"] > 8 for params in asked[:4]) >= 2
        assert max(params["lora_r"] for params in asked[4:]) <= 8

    def test_the_model_needs_neither_torch_nor_scipy(self, uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
        sweep, whole = uninterrupted
        without = "import sys; sys.modules['torch'] = sys.modules['scipy'] = None; import optuna_session; "
        main = f"optuna_session.main({str(sweep)!r}, {str(tmp_path / 'study')!r}, '6')"
        subprocess.run([sys.executable, "-c", without + main], check=True, env=ENVIRONMENT, stdout=subprocess.PIPE)
        assert table(tmp_path / "study") == table(whole)

    @pytest.mark.parametrize(("sampler", "origin"), [("optuna-gp", "gp"), ("optuna-tpe", "tpe")])
    def test_optuna_s_own_samplers_still_choose_where_they_are_asked_for(self, sampler: Any, origin: str,
                                                                         tmp_path: Path) -> None:
        with opened(write_sweep(tmp_path), tmp_path / "study") as (study, spec):
            search = OptunaSearch(study, spec, sampler=sampler)
            run_sweep(search, run_trial=recorded(study, complete), count=6)
        assert [row[2] for row in table(tmp_path / "study")][4:] == [origin] * 2

    def test_random_draws_what_the_sweep_draws(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, method="random")
        run(sweep, tmp_path / "one", 5)
        run(sweep, tmp_path / "two", 5)
        run(sweep, tmp_path / "other", 5, seed=1)
        assert table(tmp_path / "one") == table(tmp_path / "two")
        assert {row[1]["learning_rate"] for row in table(tmp_path / "one")}.isdisjoint(
            row[1]["learning_rate"] for row in table(tmp_path / "other"))
        assert {row[2] for row in table(tmp_path / "one")} == {"random"}

    def test_a_grid_runs_in_its_order_and_ends_by_itself(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, """
            method: {method}
            parameters:
              weight_decay: {{values: [0.1, 0.0]}}
              lora_r: {{values: [16, 8]}}
              learning_rate: {{value: 1.0e-3}}
            """, method="grid")
        spec = read_sweep(sweep)
        with opened(sweep, tmp_path / "study") as (study, _):
            outcome = run_sweep(OptunaSearch(study, spec), run_trial=recorded(study, complete))
        assert [row[1] for row in table(tmp_path / "study")] == spec.grid()
        assert outcome == SearchEnd(reason="every point of the sweep has been tried, 4 in all", trials_run=4)

    def test_a_sweep_without_an_end_is_refused(self, tmp_path: Path) -> None:
        with opened(write_sweep(tmp_path), tmp_path / "study") as (study, spec):
            search = OptunaSearch(study, spec)
            with pytest.raises(SweepError, match=r"write run_cap: 8 into the file or give --count 8"):
                run_sweep(search, run_trial=complete)

    def test_the_file_s_run_cap_ends_the_sweep_and_a_count_overrides_it(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, SWEEP + "run_cap: 3\n", method="random")
        with opened(sweep, tmp_path / "study") as (study, spec):
            search = OptunaSearch(study, spec)
            assert run_sweep(search, run_trial=recorded(study, complete)).trials_run == 3
            assert run_sweep(search, run_trial=recorded(study, complete), count=5).trials_run == 2


class TestWhatIsLearned:
    def test_the_gaussian_process_finds_the_minimum_and_random_search_does_not(self, tmp_path: Path) -> None:
        run(write_sweep(tmp_path), tmp_path / "gp", 12, seed=7)
        run(write_sweep(tmp_path, method="random"), tmp_path / "random", 20, seed=7)
        found, drawn = read_study(tmp_path / "gp").best, read_study(tmp_path / "random").best
        assert found.result.metric < 2.005 < 2.02 < drawn.result.metric
        assert found.trial.params["learning_rate"] == pytest.approx(1e-3, rel=0.3)

    def test_a_goal_of_maximize_looks_for_the_largest_value(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, goal="maximize")
        run(sweep, tmp_path / "study", 8, train=remembering([], lambda trial: -optuna_session.loss(trial.params)))
        assert read_study(tmp_path / "study").best.result.metric > -2.1
        assert plain_optuna(tmp_path / "study").direction == optuna.study.StudyDirection.MAXIMIZE

    def test_points_that_do_not_fit_are_learned_and_told_from_bugs(self, tmp_path: Path) -> None:
        """The loss falls with the rank, and a rank above 40 does not fit."""
        sweep = write_sweep(tmp_path, """
            method: {method}
            metric: {{name: eval/loss, goal: {goal}}}
            parameters:
              lora_r: {{distribution: int_uniform, min: 1, max: 64}}
              learning_rate: {{distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-1}}
            """)

        def too_big(*answers: tuple[Status, str]) -> int:
            asked: list[Mapping[str, Any]] = []

            def train(trial: Trial) -> TrialResult:
                asked.append(trial.params)
                if trial.params["lora_r"] > 40:
                    status, kind = answers[trial.number % len(answers)]
                    return ended(trial, status, kind, f"not this one ({LETTERS[trial.number]})")
                value = optuna_session.loss({"learning_rate": trial.params["learning_rate"]})
                return ended(trial, Status.COMPLETE, metric=value - trial.params["lora_r"] / 40)

            run(sweep, tmp_path / str(len(answers)), 18, train=train)
            return sum(params["lora_r"] > 40 for params in asked)

        as_infeasible = too_big((Status.INFEASIBLE, ""), (Status.FAILED, "out_of_memory"))
        assert as_infeasible <= 4 < too_big((Status.FAILED, "crash"))

    def test_a_loss_that_is_not_finite_keeps_the_search_away(self, tmp_path: Path) -> None:
        """Learning rates above 3e-4 diverge, and just below is best."""

        def diverging(kind: str) -> int:
            asked: list[Mapping[str, Any]] = []

            def train(trial: Trial) -> TrialResult:
                asked.append(trial.params)
                if trial.params["learning_rate"] > 3e-4:
                    return ended(trial, Status.FAILED, kind, f"not this one ({LETTERS[trial.number]})")
                return complete(trial)

            run(write_sweep(tmp_path), tmp_path / kind, 10, train=train)
            return sum(params["learning_rate"] > 3e-4 for params in asked)

        assert diverging("not_finite") < diverging("crash")

    def test_runs_that_somebody_deleted_teach_nothing_though_they_end_alike(self, tmp_path: Path) -> None:
        def asked(kind: str, reason: str) -> list[float]:
            rates: list[float] = []

            def train(trial: Trial) -> TrialResult:
                rates.append(trial.params["learning_rate"])
                if trial.params["learning_rate"] > 3e-4:
                    return ended(trial, Status.FAILED, kind, reason.format(LETTERS[trial.number]))
                return complete(trial)

            run(write_sweep(tmp_path), tmp_path / f"{kind} {reason}", 10, train=train)
            return rates

        deleted = "its run was deleted on W&B"
        lost, alike = asked("lost", deleted), asked("crash", deleted)
        assert lost == asked("crash", "not this one ({})")[:len(lost)] != alike[:len(lost)]

    def test_a_pruned_trial_teaches_what_it_would_have_reached(self, tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        with opened(sweep, directory) as (study, spec):
            search = OptunaSearch(study, spec, told_value=lambda result: result.metric - 1.0)
            run_sweep(search, run_trial=recorded(study, lambda trial: ended(trial, Status.PRUNED, metric=5.0)), count=2)
        kept = plain_optuna(directory)
        assert [(trial.state.name, trial.user_attrs["told"]) for trial in kept.trials] == [("PRUNED", 4.0)] * 2
        assert read_study(directory).best is None

    def test_the_journal_says_what_was_measured_in_the_sweep_s_own_units(
            self, uninterrupted: tuple[Path, Path]) -> None:
        _, directory = uninterrupted
        kept = plain_optuna(directory)
        searched = ("learning_rate", "lora_r", "weight_decay")
        assert kept.study_name == "sweep"
        assert [trial.params for trial in kept.trials] == [
            {name: params[name] for name in searched} for _, params, _, _ in table(directory)]
        assert kept.best_trial.number == read_study(directory).best.trial.number
        assert kept.trials[4].user_attrs["trial"]["origin"] == "model"
        assert kept.trials[4].intermediate_values == {10: kept.trials[4].value + 0.5, 20: kept.trials[4].value}
        assert kept.trials[0].distributions["learning_rate"] == optuna.distributions.FloatDistribution(
            1e-5, 1e-1, log=True)


class TestKilledAndContinued:
    def test_a_kill_between_any_two_writes_changes_no_trial(self, uninterrupted: tuple[Path, Path]) -> None:
        sweep, whole = uninterrupted
        moments = sorted((whole.parent / "moments").iterdir())
        assert len(moments) == 18
        for moment in moments:
            run(sweep, moment, 6)
            assert table(moment) == table(whole), moment
            assert len(plain_optuna(moment).trials) == 6

    def test_a_study_continued_in_a_new_process_makes_the_same_table(self, uninterrupted: tuple[Path, Path],
                                                               tmp_path: Path) -> None:
        sweep, whole = uninterrupted
        for count in (2, 6):
            with session(sweep, tmp_path / "study", count) as process:
                out, _ = process.communicate(timeout=250)
            assert out == f"{count} trials are finished\n"
        assert table(tmp_path / "study") == table(whole)

    def test_a_session_killed_in_the_middle_of_a_trial_runs_that_trial_again(self, uninterrupted: tuple[Path, Path],
                                                                             tmp_path: Path) -> None:
        sweep, whole = uninterrupted
        directory = tmp_path / "study"
        with session(sweep, directory, 6, 4) as process:
            assert process.stdout.readline() == "hanging\n"
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert [row[3] is None for row in table(directory)] == [False, False, False, False, True]
        run(sweep, directory, 6)
        assert table(directory) == table(whole)
        assert [record.attempts for record in read_study(directory).records] == [1, 1, 1, 1, 2, 1]

    def test_a_copy_cut_at_any_byte_is_mended_without_being_put_aside(self, tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        run(sweep, directory, 3)
        journal = directory / "optuna.journal"
        content, rows = journal.read_bytes(), table(directory)
        for length in range(0, len(content), 97):
            journal.write_bytes(content[:length])
            run(sweep, directory, 3)
            assert table(directory) == rows
            assert [trial.value for trial in plain_optuna(directory).trials] == [row[3] for row in rows]
        assert not list(directory.glob("*.damaged-*"))

    def test_a_lock_left_by_a_kill_is_taken_over_at_once(self, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
        """Optuna itself sleeps and looks again, for half a minute."""
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        run(sweep, directory, 1)
        (directory / "optuna.journal.lock").symlink_to(directory / "optuna.journal")
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", slept.append)
        run(sweep, directory, 2)
        assert slept == []

    @pytest.mark.parametrize(("damage", "said"), [
        (lambda text: text.replace('"op_code":4', '"op_code":4!', 1), r"damaged \(JSONDecodeError"),
        (lambda text: text.replace('"study_name":"sweep"', '"study_name":"mine"'), "the journal of mine"),
        (lambda text: text.replace('"model":"demo"', '"model":"mine"'), "trial 0 has other parameters"),
        (lambda text: "[1]\n" + text, r"damaged \(TypeError"),
        (lambda text: text.replace('"trial":', '"triel":'), "did not write"),
    ])
    def test_a_damaged_copy_is_put_aside_and_written_anew(self, damage: Callable[[str], str], said: str,
                                                          tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        run(sweep, directory, 3)
        rows = table(directory)
        journal = directory / "optuna.journal"
        damaged = damage(journal.read_text())
        assert damaged != journal.read_text()
        journal.write_text(damaged)
        notes: list[Any] = []
        with opened(sweep, directory) as (study, spec):
            search = OptunaSearch(study, spec, notify=notes.append)
            run_sweep(search, run_trial=recorded(study, complete), count=4)
        assert table(directory)[:3] == rows
        assert [trial.value for trial in plain_optuna(directory).trials] == [row[3] for row in table(directory)]
        assert (directory / "optuna.journal.damaged-1").read_text() == damaged
        assert notes[0].kind == "note"
        assert re.search(said, notes[0].text)
        assert "kept as optuna.journal.damaged-1" in notes[0].text

    def test_a_copy_that_is_ahead_of_the_record_is_put_aside(self, tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        run(sweep, directory, 2)
        record = directory / "trials.jsonl"
        record.write_text("".join(record.read_text().splitlines(keepends=True)[:-1]))
        notes: list[Any] = []
        with opened(sweep, directory) as (study, spec):
            OptunaSearch(study, spec, notify=notes.append)
        assert "trial 1 is finished, but not in the record" in notes[0].text
        assert notes[1].text == "trial 0001 was cut off and is run again"

    def test_a_copy_that_cannot_be_written_is_one_clear_message(self, tmp_path: Path) -> None:
        (tmp_path / "study" / "optuna.journal").mkdir(parents=True)
        with opened(write_sweep(tmp_path), tmp_path / "study") as (study, spec), pytest.raises(
                StudyError, match=r"cannot write .*optuna\.journal: Is a directory; choose .* trials are kept"):
            OptunaSearch(study, spec)

    def test_a_preempted_trial_is_run_again_by_the_next_session(self, tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        outcome = run(sweep, directory, 3, train=lambda trial: (
            complete(trial) if trial.number < 1 else ended(trial, Status.PREEMPTED, reason="the session ends")))
        assert outcome == SearchEnd(reason="the session ends", trials_run=1, cut_short=True)
        before = table(directory)[1][1]
        run(sweep, directory, 3)
        assert table(directory)[1][1] == before
        assert [row[3] is not None for row in table(directory)] == [True, True, True]

    def test_a_record_of_another_space_is_refused(self, tmp_path: Path) -> None:
        sweep, directory = write_sweep(tmp_path, method="random"), tmp_path / "study"
        run(sweep, directory, 2)
        record = directory / "trials.jsonl"
        record.write_text(re.sub(', "digest": "[0-9a-f]+"', "", record.read_text()).replace(
            '"model": "demo", "learning', '"model": "mine", "learning'))
        with opened(sweep, directory) as (study, spec), pytest.raises(
                StudyError, match=r"trials that this sweep cannot have made: 0000, 0001; choose another directory"):
            OptunaSearch(study, spec)


class TestHowItEnds:
    def test_the_same_bug_three_times_in_a_row_ends_the_sweep(self, tmp_path: Path) -> None:
        outcome = run(write_sweep(tmp_path, method="random"), tmp_path / "study", 9, train=lambda trial: ended(
            trial, Status.FAILED, "crash", f"KeyError: 'x' at step {trial.number}"))
        assert outcome == SearchEnd(
            reason="3 trials in a row failed alike, the last one with: KeyError: 'x' at step 2", trials_run=3,
            gave_up=True)

    def test_failures_that_differ_or_are_the_point_s_own_fault_do_not_end_it(self, tmp_path: Path) -> None:
        sweep = write_sweep(tmp_path, method="random")
        kinds = ["out_of_memory", "not_finite", "crash", "crash", "out_of_memory"] * 2
        outcome = run(sweep, tmp_path / "kinds", 10, train=lambda trial: ended(
            trial, Status.FAILED, kinds[trial.number], kinds[trial.number] if trial.number < 5 else "another"))
        assert outcome.trials_run == 10
        assert run(sweep, tmp_path / "between", 9, train=lambda trial: (
            complete(trial) if trial.number % 3 == 2 else ended(trial, Status.FAILED, "crash", "boom"))).trials_run == 9

    def test_a_target_ends_the_sweep(self, tmp_path: Path) -> None:
        text = SWEEP.replace("goal: {goal}", "goal: {goal}, target: 3.0")
        outcome = run(write_sweep(tmp_path, text), tmp_path / "study", 9)
        assert re.fullmatch(r"trial 0000 reached the target: eval/loss 2\.\d{4}", outcome.reason)
        assert run(write_sweep(tmp_path, text), tmp_path / "study", 9).trials_run == 0

    def test_nothing_is_started_against_the_clock(self, tmp_path: Path) -> None:
        with opened(write_sweep(tmp_path), tmp_path / "study") as (study, spec):
            outcome = run_sweep(OptunaSearch(study, spec), run_trial=complete, count=3,
                                may_start=lambda: "the session ends in 4 min")
        assert outcome == SearchEnd(reason="the session ends in 4 min", trials_run=0, cut_short=True)
        assert table(tmp_path / "study") == []

    def test_two_loops_share_a_search_and_never_a_trial(self, tmp_path: Path) -> None:
        with opened(write_sweep(tmp_path), tmp_path / "study") as (study, spec):
            search = OptunaSearch(study, spec)
            both, guard, outcomes = threading.Barrier(2, timeout=60), threading.Lock(), []

            def run_trial(trial: Trial) -> TrialResult:
                with guard:
                    study.record_start(trial, {})
                both.wait()  # so that two trials always run at once
                with guard:
                    study.record_end(complete(trial))
                return complete(trial)

            threads = [threading.Thread(target=lambda: outcomes.append(run_sweep(search, run_trial=run_trial, count=8)))
                       for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        records = read_study(tmp_path / "study").records
        assert [record.trial.number for record in records] == list(range(8))
        assert len({tuple(record.trial.params.values()) for record in records}) == 8
        assert sum(outcome.trials_run for outcome in outcomes) == 8

    def test_the_search_starts_without_torch(self, uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
        sweep, _ = uninterrupted
        script = (f"import sys, optuna_session; from kaggle_runner.run.search import warm_up; warm_up(); "
                  f"optuna_session.main({str(sweep)!r}, {str(tmp_path / 'study')!r}, '5'); "
                  f"assert 'numpy' in sys.modules; assert 'torch' not in sys.modules")
        subprocess.run([sys.executable, "-c", script], check=True, env=ENVIRONMENT, stdout=subprocess.PIPE)


def recorded(study: Study, train: Callable[[Trial], TrialResult]) -> Callable[[Trial], TrialResult]:
    def run_trial(trial: Trial) -> TrialResult:
        study.record_start(trial, dict(trial.params))
        result = train(trial)
        study.record_end(result)
        return result

    return run_trial


def remembering(asked: list[Mapping[str, Any]], metric: Callable[[Trial], float]) -> Callable[[Trial], TrialResult]:
    def train(trial: Trial) -> TrialResult:
        asked.append(trial.params)
        return ended(trial, Status.COMPLETE, metric=metric(trial))

    return train
