"""Sweep files: what each distribution means, and every problem with its way out."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.errors import ConfigError, SweepError
from kaggle_runner.sweep.distributions import KEYS, Choice, Fixed, Parameter, Range
from kaggle_runner.sweep.problems import yaml_number
from kaggle_runner.sweep.spec import Hyperband, SweepSpec, read_configuration, read_sweep
from kaggle_runner.sweep.yaml_file import shipped_sweep

SHIPPED = ("demo", "lora_t4", "lora_t4_rank")

# Values of W&B's own engine: python -m venv sweeps && sweeps/bin/pip install 'sweeps==0.3.0' 'numpy<2', then
# [sweeps.params.HyperParameter("x", entry).ppf(u) for u in UNITS].
UNITS = (0.001, 0.25, 0.5, 0.9, 0.999)
REFERENCE = (
    ("values: [4, 8, 16]", [4, 4, 8, 16, 16]),
    ("values: [adamw_torch, adamw_8bit, paged_adamw_8bit], probabilities: [0.2, 0.5, 0.3]",
     ["adamw_torch", "adamw_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_8bit"]),
    ("min: 1, max: 10", [1, 3, 5, 9, 10]),
    ("min: 0.1, max: 0.7", [0.10060000000000001, 0.25, 0.4, 0.64, 0.6993999999999999]),
    ("distribution: q_uniform, min: 1, max: 32, q: 4", [0, 8, 16, 28, 32]),
    ("distribution: q_uniform, min: 0.0, max: 0.3, q: 0.05",
     [0.0, 0.05, 0.15000000000000002, 0.25, 0.30000000000000004]),
    ("distribution: log_uniform, min: -12, max: -8",
     [6.168838422044202e-06, 1.670170079024566e-05, 4.5399929762484854e-05, 0.0002248673241788482,
      0.0003341234575172325]),
    ("distribution: q_log_uniform, min: 0, max: 5, q: 2", [2, 4, 12, 90, 148]),
    ("distribution: inv_log_uniform, min: 2, max: 9",
     [0.00012427670332277696, 0.000710174388842549, 0.004086771438464067, 0.06720551273974978, 0.1343912442452489]),
    ("distribution: log_uniform_values, min: 5.0e-6, max: 2.0e-4",
     [5.0184784587196145e-06, 1.2574334296829354e-05, 3.16227766016838e-05, 0.00013830057843624785,
      0.0001992635832206268]),
    ("distribution: q_log_uniform_values, min: 1, max: 256, q: 8", [0, 0, 16, 144, 256]),
    ("distribution: inv_log_uniform_values, min: 0.5, max: 20",
     [0.5018478458719619, 1.257433429682935, 3.162277660168379, 13.830057843624783, 19.926358322062686]),
    ("distribution: normal, mu: 3.5, sigma: 0.25",
     [2.7274419234580467, 3.3313775624509794, 3.5, 3.82038789138615, 4.272558076541953]),
    ("distribution: q_normal, mu: 10, sigma: 4, q: 2", [-2, 8, 10, 16, 22]),
    ("distribution: log_normal, mu: -9, sigma: 1.5",
     [1.1974114462449073e-06, 4.487029222500457e-05, 0.00012340980408667956, 0.0008437345292215154,
      0.012719086486498839]),
    ("distribution: q_log_normal, mu: 2, sigma: 1, q: 4", [0, 4, 8, 28, 164]),
    ("distribution: beta, a: 2, b: 5",
     [0.008255492787746678, 0.16116291679032652, 0.26444998329566005, 0.5103163065514917, 0.818613866919134]),
    ("distribution: beta, a: 0.5, b: 0.5",
     [2.4673990709169446e-06, 0.14644660940672624, 0.4999999999999999, 0.9755282581475768, 0.999997532600929]),
    ("distribution: q_beta, a: 2, b: 5, q: 0.1", [0.0, 0.2, 0.30000000000000004, 0.5, 0.8]),
)


@dataclass(frozen=True, kw_only=True)
class Anything:
    """A trainer's config that takes every value, to read distributions as they are."""

    x: float | str | bool | None = 0.0

    @classmethod
    def from_params(cls, params: dict) -> "Anything":
        return cls(**params)


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """A trainer's config with two hyperparameters that depend on each other."""

    hidden_size: int = 8
    heads: int = 2

    @classmethod
    def from_params(cls, params: dict) -> "HeadsConfig":
        return cls(**params)

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden_size {self.hidden_size} cannot be split over {self.heads} heads")


def write(folder: Path, text: str) -> Path:
    path = folder / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read_one(folder: Path, entry: str) -> Parameter:
    """Read one parameter of a random search over a config that takes anything."""
    spec = read_sweep(write(folder, f"method: random\nparameters: {{x: {{{entry}}}}}"), Anything)
    return spec.parameters["x"]


def with_parameters(entries: str, method: str = "bayes") -> str:
    """Write a sweep file with the given parameters and a searched one that is right."""
    head = f"method: {method}\nmetric: {{name: eval/loss, goal: minimize}}\n"
    return f"{head}parameters:\n  warmup_ratio: {{values: [0.0, 0.05]}}\n  {entries}\n"


def with_top(lines: str, method: str = "random") -> str:
    """Write a sweep file with the given top-level lines and parameters that are right."""
    return f"method: {method}\n{lines}\nparameters: {{warmup_ratio: {{values: [0.0, 0.05]}}}}\n"


# Distributions


@pytest.mark.parametrize(("entry", "expected"), REFERENCE, ids=[entry for entry, _ in REFERENCE])
def test_every_distribution_gives_the_values_of_wandbs_own_engine(tmp_path: Path, entry: str, expected: list) -> None:
    parameter = read_one(tmp_path, entry)
    values = [parameter.from_unit(u) for u in UNITS]
    if isinstance(expected[0], float):
        assert values == pytest.approx(expected, rel=1e-12, abs=0)
    else:
        assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_the_reference_covers_every_distribution(tmp_path: Path) -> None:
    parameters = [read_one(tmp_path, entry) for entry, _ in REFERENCE]
    ranges = {parameter.distribution for parameter in parameters if isinstance(parameter, Range)}
    assert ranges == KEYS.keys() - {"constant", "categorical", "categorical_w_probabilities"}


@pytest.mark.parametrize("entry", [entry for entry, _ in REFERENCE])
def test_a_drawn_value_is_contained_and_comes_back_from_its_place(tmp_path: Path, entry: str) -> None:
    parameter = read_one(tmp_path, entry)
    for value in map(parameter.from_unit, (0.0, 1e-9, *(i / 97 for i in range(1, 97)), 1 - 1e-9, 1.0)):
        assert parameter.contains(value)
        place = parameter.to_unit(value)
        assert 0 <= place <= 1
        back = parameter.from_unit(place)
        assert back == value or math.isclose(back, value, rel_tol=1e-6, abs_tol=1e-300)


@pytest.mark.parametrize("entry", [entry for entry, _ in REFERENCE])
def test_the_ends_of_the_unit_interval_are_finite_and_in_bounds(tmp_path: Path, entry: str) -> None:
    parameter = read_one(tmp_path, entry)
    if isinstance(parameter, Range):
        low, high = parameter.from_unit(0.0), parameter.from_unit(1.0)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert parameter.lowest <= low < high <= parameter.highest
    else:
        assert parameter.from_unit(0.0) == parameter.values[0]
        assert parameter.from_unit(1.0) == parameter.values[-1]


def test_bounds_given_as_values_are_never_passed_by_rounding() -> None:
    parameter = Range(distribution="log_uniform_values", low=5.0e-6, high=2.0e-4)
    assert (parameter.from_unit(0.0), parameter.from_unit(1.0)) == (5.0e-6, 2.0e-4)


def test_contains_refuses_what_cannot_be_drawn() -> None:
    assert not Range(distribution="int_uniform", low=1, high=4).contains(2.5)
    assert not Range(distribution="int_uniform", low=1, high=4).contains(5)
    assert not Range(distribution="q_uniform", low=0.0, high=0.3, q=0.1).contains(0.15)
    assert not Range(distribution="uniform").contains("0.5")
    assert not Range(distribution="uniform").contains(True)
    assert not Range(distribution="log_normal").contains(-1.0)
    assert not Choice(values=(0, 1)).contains(True)
    assert Choice(values=(["q_proj"], ["q_proj", "v_proj"])).contains(("q_proj",))
    assert Choice(values=(8, 16)).contains(8.0)
    assert Fixed(value="demo").contains("demo")


def test_ranges_say_how_many_values_they_have() -> None:
    assert Range(distribution="int_uniform", low=1, high=4).count == 4
    assert Range(distribution="q_uniform", low=0.0, high=0.3, q=0.1).count == 4
    assert Range(distribution="uniform").count is None
    assert Choice(values=(8, 8, 16)).count == 2


# Reading


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_have_neither_problems_nor_warnings(name: str) -> None:
    spec = read_sweep(shipped_sweep(name))
    assert (spec.name, spec.method, spec.metric, spec.goal) == (name, "bayes", "eval/loss", "minimize")
    assert all("to compare at equal rows write num_train_epochs" in warning for warning in spec.warnings)
    FinetuneConfig.from_params(spec.sample(0))


def test_lora_t4_searches_what_the_mission_names() -> None:
    spec = read_sweep(shipped_sweep("lora_t4"))
    assert spec.searched == {
        "learning_rate": Range(distribution="log_uniform_values", low=5.0e-6, high=2.0e-4),
        "gradient_accumulation_steps": Choice(values=(4, 8)),
        "lora_dropout": Choice(values=(0.05, 0.1)),
        "weight_decay": Choice(values=(0.01, 0.05)),
    }
    assert {name: spec.fixed[name] for name in ("batch_size", "samples", "lora_r", "lora_alpha", "load_in_4bit")} == {
        "batch_size": 2, "samples": 12_000, "lora_r": 8, "lora_alpha": 16, "load_in_4bit": True}


def test_lora_t4_rank_differs_only_in_name_cap_rank_and_alpha() -> None:
    plain, rank = (dict(read_sweep(shipped_sweep(name)).raw) for name in ("lora_t4", "lora_t4_rank"))
    assert rank["parameters"].pop("lora_r") == {"values": [8, 16, 32]}
    assert rank["parameters"].pop("lora_alpha") == {"values": [16, 32]}
    for name in ("lora_r", "lora_alpha"):
        plain["parameters"].pop(name)
    for key in ("name", "run_cap"):
        plain.pop(key), rank.pop(key)
    assert plain == rank


def test_a_shipped_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_sweep(Path("sweeps/demo.yaml")).source == str(shipped_sweep("demo"))


def test_an_own_file_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    Path("sweeps/demo.yaml").write_text(with_top("name: mine"))
    assert read_sweep(Path("sweeps/demo.yaml")).name == "mine"


def test_an_unknown_shipped_name_lists_what_ships() -> None:
    with pytest.raises(SweepError, match=re.escape("did you mean 'lora_t4.yaml'?")):
        shipped_sweep("lora_t5")


def test_every_key_of_wandb_is_kept_for_wandb(tmp_path: Path) -> None:
    text = with_top("name: mine\ndescription: d\nproject: p\nentity: e\nprogram: train.py\ncommand: ['${program}']\n"
                    "controller: {type: cloud}\nrun_cap: 5\nearly_terminate: {type: hyperband, min_iter: 3}\n"
                    "metric: {name: eval/loss, target: 1.5, impute: worst}", method="bayes")
    spec = read_sweep(write(tmp_path, text))
    assert (spec.name, spec.run_cap, spec.target) == ("mine", 5, 1.5)
    assert spec.early_terminate == Hyperband(min_iter=3)
    assert spec.raw["command"] == ["${program}"]
    assert json.loads(json.dumps(spec.raw)) == spec.raw


def test_method_metric_and_name_have_defaults_where_wandb_has_them(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, with_top("")))
    assert (spec.name, spec.metric, spec.goal, spec.run_cap) == ("bad", "eval/loss", "minimize", None)


def test_a_date_stays_text(tmp_path: Path) -> None:
    assert read_sweep(write(tmp_path, with_top("name: 2026-01-31"))).name == "2026-01-31"


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = with_parameters("lora_dropout: &some {values: [0.0, 0.1]}\n  weight_decay: {<<: *some}")
    assert read_sweep(write(tmp_path, text)).parameters["weight_decay"] == Choice(values=(0.0, 0.1))


# Points


def random_spec(tmp_path: Path) -> SweepSpec:
    return read_sweep(write(tmp_path, """
method: random
parameters:
  warmup_ratio: {min: 0.0, max: 0.1}
  learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: 2.0e-4}
  lora_r: {values: [8, 16, 32]}
  max_steps: {value: 10}
"""))


def test_a_seed_draws_what_wandbs_random_search_draws(tmp_path: Path) -> None:
    # random.seed(7); sweeps.next_run({"method": "random", "parameters": ...}, []).config, with sweeps 0.3.0
    assert random_spec(tmp_path).sample(7) == {
        "warmup_ratio": 0.007243628666754276, "learning_rate": pytest.approx(1.651085337878328e-05, rel=1e-12),
        "lora_r": 8, "max_steps": 10}


def test_the_same_seed_draws_the_same_point_and_another_seed_another(tmp_path: Path) -> None:
    spec = random_spec(tmp_path)
    points = [spec.sample(seed) for seed in range(20)]
    assert points == [spec.sample(seed) for seed in range(20)]
    assert len({point["learning_rate"] for point in points}) == 20
    assert all(spec.contains(point) for point in points)
    assert not spec.contains({**points[0], "lora_r": 12})
    assert not spec.contains({**points[0], "seed": 1})


def test_a_grid_has_wandbs_order(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, """
method: grid
parameters:
  weight_decay: {distribution: q_uniform, min: 0.0, max: 0.3, q: 0.1}
  lora_r: {values: [8, 16]}
  batch_size: {min: 1, max: 2}
  max_steps: {value: 10}
"""))
    grid = spec.grid()
    # sweeps.next_runs({"method": "grid", "parameters": ...}, [], n=100), with sweeps 0.3.0
    assert [(point["batch_size"], point["lora_r"], point["weight_decay"]) for point in grid] == [
        (1, 8, 0.0), (1, 8, 0.1), (1, 8, 0.2), (1, 16, 0.0), (1, 16, 0.1), (1, 16, 0.2),
        (2, 8, 0.0), (2, 8, 0.1), (2, 8, 0.2), (2, 16, 0.0), (2, 16, 0.1), (2, 16, 0.2)]
    assert spec.count == len(grid) == 12
    assert list(grid[0]) == ["weight_decay", "lora_r", "batch_size", "max_steps"]
    assert {point["max_steps"] for point in grid} == {10}


@pytest.mark.parametrize(("hyperband", "expected"), [
    # run.early_terminate_info["bands"] up to 100 after sweeps.stop_runs(...), with sweeps 0.3.0
    (Hyperband(min_iter=3), (3, 9, 27, 81)),
    (Hyperband(min_iter=2, eta=2.5), (2, 5, 12, 31, 78)),
    (Hyperband(max_iter=27, s=2), (3, 9)),
    (Hyperband(max_iter=20, s=4, eta=2), (1, 2, 5, 10)),
])
def test_hyperband_decides_where_wandb_decides(hyperband: Hyperband, expected: tuple[int, ...]) -> None:
    assert hyperband.bands(100) == expected


# Problems of the file as a whole

FILES = {
    "an empty file": ("", "the file is empty; copy sweeps/demo.yaml and change it"),
    "comments only": ("# later\n", "the file is empty"),
    "a list": ("- method: bayes\n", "must be a mapping with method, metric and parameters, but the file is a list"),
    "text": ("method bayes\n", "but the file is only 'method bayes'"),
    "a syntax error": ("method: bayes\nmetric: {name: eval/loss\nrun_cap: 3\n",
                       "line 3, column 8: not YAML: expected ',' or '}', but got ':'"),
    "a tab": ("method: bayes\nmetric:\n\tname: eval/loss\n", r"line 3, column 1: not YAML: found character '\t'"),
    "two documents": ("method: bayes\n---\nmethod: grid\n", "line 2, column 1: not YAML: but found another document"),
    "a control character": ("method: \x01\n", "not YAML: unacceptable character #x0001"),
    "aliases of aliases": ("a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcde", "bcdef", strict=True)),
        "not usable YAML: its aliases stand for 342,397 values, more than 100,000"),
    "a circle": ("method: bayes\nparameters: &a {seed: *a}\n", "not usable YAML: Circular reference"),
    "an impossible tag": ("method: !!python/name:os.system\n", "could not determine a constructor for the tag"),
}


@pytest.mark.parametrize(("text", "expected"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_sweep_says_why(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, text))
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{tmp_path}/bad.yaml: 1 problem\n")


def test_a_file_that_is_not_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"method: \xff\xfe")
    with pytest.raises(SweepError, match="is not UTF-8 text"):
        read_sweep(tmp_path / "bad.yaml")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(SweepError, match=re.escape(f"no such file; did you mean {tmp_path}/bad.yaml?")):
        read_sweep(tmp_path / "bed.yaml")


def test_a_missing_file_without_neighbours_lists_what_ships(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=re.escape("one that ships: sweeps/demo.yaml, sweeps/lora_t4.yaml")):
        read_sweep(tmp_path / "nowhere" / "x.yaml")


def test_a_misspelt_shipped_file_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SweepError, match=re.escape("did you mean sweeps/demo.yaml?")):
        read_sweep(Path("sweeps/dmeo.yaml"))


def test_a_folder_lists_its_sweep_files(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(SweepError, match=re.escape("is a folder; give a sweep file in it: bad.yaml")):
        read_sweep(tmp_path)


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot be read: File name too long"):
        read_sweep(tmp_path / ("x" * 300))


# Problems of the keys

TOP = {
    "unknown key": ("methud: bayes", "methud: no such key; did you mean 'method'?"),
    "hyperparameter at the top": ("lora_r: 8", "lora_r: is a hyperparameter; move it under parameters, as lora_r: "
                                               "value: 8"),
    "run_cap zero": ("run_cap: 0", "run_cap: must be a whole number above 0, got 0"),
    "run_cap fraction": ("run_cap: 2.5", "run_cap: must be a whole number above 0, got 2.5"),
    "run_cap text": ("run_cap: '8'", "run_cap: '8' is text to YAML; write 8"),
    "run_cap true": ("run_cap: true", "run_cap: must be a whole number above 0, got true"),
    "name number": ("name: 7", "name: must be text, got 7; put it in quotes"),
    "command text": ("command: python train.py", "command: must be a list, got 'python train.py'"),
    "key given twice": ("run_cap: 3\nrun_cap: 4", "line 3: 'run_cap' is given twice, and only the last one would "
                                                  "count; remove one"),
    "key not text": ("on: 3", "true: a key must be text; put it in quotes"),
    "infinite": ("name: .inf", "name: must be a finite number, got inf"),
    "metric text": ("metric: eval/loss", "metric: must be a mapping, got 'eval/loss'; write metric: with name: "
                                         "eval/loss and goal: minimize below it"),
    "metric empty": ("metric:", "metric: is empty; write metric: with name: eval/loss and goal: minimize below it"),
    "metric unknown": ("metric: {name: eval/rouge}", "metric.name: must be what the trainer reports, eval/loss, "
                                                     "eval/exact_match, eval/token_accuracy or eval/bits_per_byte, got "
                                                     "'eval/rouge'"),
    "metric of transformers": ("metric: {name: eval_loss}", "metric.name: must be what the trainer reports, eval/loss, "
                                                            "eval/exact_match, eval/token_accuracy or "
                                                            "eval/bits_per_byte, got 'eval_loss'; write eval/loss"),
    "metric nameless": ("metric: {goal: minimize}", "metric.name: must be what the trainer reports, eval/loss, "
                                                    "eval/exact_match, eval/token_accuracy or eval/bits_per_byte, but "
                                                    "name is missing"),
    "metric without goal": ("metric: {name: eval/exact_match}",
                            "metric.goal: is missing, and minimize, which W&B takes then, looks for the worst "
                            "eval/exact_match; write goal: maximize"),
    "metric upside down": ("metric: {name: eval/bits_per_byte, goal: maximize}",
                           "metric.goal: maximize looks for the worst eval/bits_per_byte; write goal: minimize"),
    "goal min": ("metric: {name: eval/loss, goal: min}", "metric.goal: must be 'minimize' or 'maximize', got 'min'; "
                                                         "write minimize"),
    "metric key": ("metric: {name: eval/loss, gaol: minimize}", "metric.gaol: no such key; did you mean 'goal'?"),
    "target text": ("metric: {name: eval/loss, target: 1e0}", "metric.target: '1e0' is text to YAML; write 1.0e+0"),
    "impute": ("metric: {name: eval/loss, impute: none}", "metric.impute: must be one of 'latest', 'best', 'worst', "
                                                          "as text, got 'none'"),
}
EARLY = {
    "text": ("hyperband", "early_terminate: must be a mapping, got 'hyperband'; write type: hyperband and "
                          "min_iter: 3 below it"),
    "no type": ("{min_iter: 3}", "early_terminate.type: missing; write hyperband"),
    "wrong type": ("{type: median, min_iter: 3}", "early_terminate.type: must be hyperband, got 'median'"),
    "unknown key": ("{type: hyperband, min_iter: 3, miniter: 2}",
                    "early_terminate.miniter: no such key; did you mean 'min_iter'?"),
    "no counts": ("{type: hyperband}", "early_terminate: needs min_iter, or max_iter and s; write min_iter: 3 to "
                                       "decide from the third evaluation"),
    "max_iter alone": ("{type: hyperband, max_iter: 27}", "early_terminate.s: missing; max_iter needs the number of "
                                                          "decisions, such as s: 2"),
    "s alone": ("{type: hyperband, s: 2}", "early_terminate.max_iter: missing; s counts decisions back from it"),
    "eta": ("{type: hyperband, min_iter: 3, eta: 1}", "early_terminate.eta: must be above 1, got 1; the best 1/eta of "
                                                      "the trials go on"),
    "min_iter zero": ("{type: hyperband, min_iter: 0}", "early_terminate.min_iter: must be a whole number above 0, "
                                                        "got 0"),
    "strict": ("{type: hyperband, min_iter: 3, strict: 1}", "early_terminate.strict: must be true or false, got 1"),
    "no decision": ("{type: hyperband, max_iter: 2, s: 1}", "early_terminate.max_iter: 2 divided by eta 3 is below 1, "
                                                            "so nothing is decided and W&B fails; raise max_iter"),
}
PARAMETERS = {
    "unknown": ("lora_rr: {value: 8}", "parameters.lora_rr: no such hyperparameter; did you mean 'lora_r'?"),
    "another trainer's name": ("lr: {value: 0.1}",
                               "parameters.lr: no such hyperparameter; write learning_rate, the peak learning rate"),
    "bare value": ("lora_r: 8", "parameters.lora_r: must be a mapping, got 8; write value: 8 below it"),
    "bare list": ("lora_r: [8, 16]", "parameters.lora_r: must be a mapping, got [8, 16]; write values: [8, 16] below "
                                     "it"),
    "nothing": ("lora_r: {}", "parameters.lora_r: needs value, values, or min and max"),
    "unknown keys": ("lora_r: {vales: [8]}", "parameters.lora_r: needs value, values, or min and max, got vales"),
    "nested": ("adapter: {parameters: {rank: {value: 8}}}",
               "parameters.adapter.rank: no such hyperparameter; write lora_r, the rank of the adapter"),
    "nested and empty": ("adapter: {parameters: {}}",
                         "parameters.adapter.parameters: must be a mapping of hyperparameters; name what to search "
                         "below it"),
    "text in max": ("learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: 2e-4}",
                    "parameters.learning_rate.max: '2e-4' is text to YAML; write 2.0e-4"),
    "word in max": ("learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: high}",
                    "parameters.learning_rate.max: must be a number, got 'high'"),
    "true in min": ("lora_r: {min: true, max: 8}", "parameters.lora_r.min: must be a number, got true"),
    "not finite": ("max_grad_norm: {value: .inf}", "parameters.max_grad_norm.value: must be a finite number, got inf"),
    "not finite max": ("weight_decay: {min: 0.0, max: .nan}",
                       "parameters.weight_decay.max: must be a finite number, got nan"),
    "too large": ("samples: {min: 1, max: 1" + "0" * 30 + "}",
                  "parameters.samples.max: 1e+30 is too large for a hyperparameter"),
    "min over max": ("weight_decay: {min: 0.2, max: 0.1}",
                     "parameters.weight_decay.min: must be below max, got min 0.2 and max 0.1; swap them"),
    "min is max": ("lora_r: {min: 8, max: 8}",
                   "parameters.lora_r.min: must be below max, got min 8 and max 8; use value"),
    "min alone": ("lora_r: {min: 8}", "parameters.lora_r: min without max; add max, or use values"),
    "min alone with distribution": ("lora_r: {distribution: int_uniform, min: 8}",
                                    "parameters.lora_r: int_uniform needs min and max; max is missing"),
    "int_uniform fraction": ("lora_r: {distribution: int_uniform, min: 1, max: 8.5}",
                             "parameters.lora_r.max: int_uniform takes whole numbers, got 8.5; write 8, or use "
                             "distribution: uniform"),
    "values empty": ("lora_r: {values: []}", "parameters.lora_r.values: must not be empty; list what to try, or leave "
                                             "the parameter out"),
    "values no list": ("lora_r: {values: 8}", "parameters.lora_r.values: must be a list, got 8; write [8]"),
    "log of zero": ("learning_rate: {distribution: log_uniform_values, min: 0, max: 1.0e-3}",
                    "parameters.learning_rate.min: must be above 0 for log_uniform_values, got 0; a logarithm has no "
                    "place for it"),
    "exponents that are values": ("learning_rate: {distribution: log_uniform, min: 1.0e-5, max: 1.0e-2}",
                                  "parameters.learning_rate: min and max of log_uniform are exponents of e, so the "
                                  "values would lie between 1.00001 and 1.01005; for values from 1e-05 to 0.01 write "
                                  "distribution: log_uniform_values"),
    "exponents that overflow": ("samples: {distribution: q_log_uniform, min: 100, max: 10000}",
                                "parameters.samples: min and max of q_log_uniform are exponents of e, so the values "
                                "would overflow; for values from 100 to 10000 write distribution: "
                                "q_log_uniform_values"),
    "log_normal that overflows": ("learning_rate: {distribution: log_normal, mu: 1000}",
                                  "parameters.learning_rate: the values of this log_normal overflow; mu and sigma "
                                  "belong to the value's logarithm, mu: -9 means a median of 0.00012"),
    "unknown distribution": ("learning_rate: {distribution: loguniform, min: 1.0e-5, max: 1.0e-3}",
                             "parameters.learning_rate.distribution: no such distribution: 'loguniform'; did you mean "
                             "'log_uniform'?"),
    "distribution no text": ("learning_rate: {distribution: [uniform], min: 1.0e-5, max: 1.0e-3}",
                             "parameters.learning_rate.distribution: no such distribution: ['uniform']; did you mean "
                             "'uniform'?"),
    "key not allowed": ("learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-3, q: 1}",
                        "parameters.learning_rate.q: log_uniform_values takes min and max; for steps of q use "
                        "distribution: q_log_uniform_values"),
    "bounded normal": ("weight_decay: {distribution: normal, mu: 0.1, sigma: 0.01, max: 1.0}",
                       "parameters.weight_decay.max: normal takes mu and sigma; a normal has no bounds, use mu and "
                       "sigma"),
    "normal between bounds": ("weight_decay: {distribution: q_normal, mu: 0.1, min: 0.0, max: 1.0}",
                              "parameters.weight_decay: q_normal takes mu, sigma and q, not min and max; a normal "
                              "has no bounds, use mu and sigma"),
    "value and values": ("lora_r: {value: 8, values: [8, 16]}", "parameters.lora_r.values: constant takes value; leave "
                                                               "it out"),
    "q alone": ("lora_r: {q: 8}", "parameters.lora_r: q without a distribution; add distribution: normal, q_uniform or "
                                  "another"),
    "q zero": ("weight_decay: {distribution: q_uniform, min: 0.0, max: 0.1, q: 0}",
               "parameters.weight_decay.q: must be above 0, got 0"),
    "sigma negative": ("weight_decay: {distribution: normal, mu: 0.1, sigma: -1}",
                       "parameters.weight_decay.sigma: must be above 0, got -1"),
}
FITTING = {
    "value out of range": ("lora_dropout: {value: 1.5}",
                           "parameters.lora_dropout.value: must be 0 to below 1, got 1.5"),
    "one of the values": ("lora_r: {values: [8, 16, -1]}",
                          "parameters.lora_r.values[2]: must be at least 1, got -1"),
    "the wrong type": ("samples: {value: many}",
                       "parameters.samples.value: must be a whole number or null, got 'many'"),
    "a fraction": ("lora_r: {value: 8.5}", "parameters.lora_r.value: must be a whole number, got 8.5"),
    "an unknown choice": ("optim: {value: adam}", "parameters.optim.value: must be one of adamw_torch, adamw_8bit, "
                                                  "paged_adamw_8bit, got 'adam'"),
    "the lower end": ("lora_r: {min: 0, max: 8}", "parameters.lora_r.min: must be at least 1, got 0"),
    "the upper end": ("lora_dropout: {min: 0.1, max: 1.0}",
                      "parameters.lora_dropout.max: must be 0 to below 1, got 1.0"),
    "rounded out of range": ("lora_r: {distribution: q_uniform, min: 1, max: 32, q: 4}",
                             "parameters.lora_r: the smallest value of this q_uniform is 0, but lora_r must be at "
                             "least 1, got 0"),
    "an exponent's value": ("lora_dropout: {distribution: log_uniform, min: -2, max: 0.5}",
                            "parameters.lora_dropout: the largest value of this log_uniform is 1.64872, but "
                            "lora_dropout must be 0 to below 1, got 1.6487212707001282"),
    "a tail": ("weight_decay: {distribution: normal, mu: 0.01, sigma: 0.01}",
               "parameters.weight_decay: one draw in 1000 lies beyond -0.0209, but weight_decay must not be negative, "
               "got -0.0209; use a distribution with min and max"),
    "fractions for a whole number": ("lora_r: {min: 1.0, max: 8.0}",
                                     "parameters.lora_r: must be a whole number, but uniform gives fractions; use "
                                     "distribution: int_uniform, a q_ distribution or values"),
    "steps that are no whole numbers": ("lora_r: {distribution: q_uniform, min: 2, max: 8, q: 0.5}",
                                        "parameters.lora_r: must be a whole number, but q_uniform gives fractions; "
                                        "use a whole q or values"),
    "a range for text": ("optim: {min: 1, max: 2}",
                         "parameters.optim: must be text, which no range of numbers gives; use values"),
}


@pytest.mark.parametrize(("lines", "expected"), TOP.values(), ids=TOP)
def test_a_problem_at_the_top_says_where_and_what_to_do(tmp_path: Path, lines: str, expected: str) -> None:
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, with_top(lines)))
    others = [problem for problem in caught.value.problems if problem != expected]
    assert all(problem.startswith("name: must be text") for problem in others)


@pytest.mark.parametrize(("entry", "expected"), EARLY.values(), ids=EARLY)
def test_a_problem_of_early_terminate_says_where_and_what_to_do(tmp_path: Path, entry: str, expected: str) -> None:
    text = with_top(f"metric: {{name: eval/loss}}\nearly_terminate: {entry}")
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, text))
    assert caught.value.problems == (expected,)


@pytest.mark.parametrize(("entry", "expected"), {**PARAMETERS, **FITTING}.values(), ids={**PARAMETERS, **FITTING})
def test_a_problem_of_a_parameter_says_where_and_what_to_do(tmp_path: Path, entry: str, expected: str) -> None:
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, with_parameters(entry)))
    assert caught.value.problems == (expected,)


RANDOM_OR_GRID = {
    "probabilities too few": ("random", "lora_r: {values: [8, 16], probabilities: [1.0]}",
                              "parameters.lora_r.probabilities: must be a list with one number for each of the 2 "
                              "values, got 1"),
    "probabilities sum": ("random", "lora_r: {values: [8, 16], probabilities: [0.5, 0.4]}",
                          "parameters.lora_r.probabilities: must sum to 1, but sum to 0.9"),
    "probabilities negative": ("random", "lora_r: {values: [8, 16], probabilities: [1.5, -0.5]}",
                               "parameters.lora_r.probabilities: must not be negative, got -0.5"),
    "continuous grid": ("grid", "weight_decay: {min: 0.0, max: 0.1}",
                        "parameters.weight_decay: a grid needs a list, and uniform has no end of values; use values, "
                        "or distribution: q_uniform with q"),
    "huge grid": ("grid", "seed: {min: 0, max: 1000000}",
                  "parameters: the grid has 2000002 points, more than 100000 cannot be listed; use method: random, or "
                  "fewer values"),
}


@pytest.mark.parametrize(("method", "entry", "expected"), RANDOM_OR_GRID.values(), ids=RANDOM_OR_GRID)
def test_a_problem_of_another_method_says_where_and_what_to_do(tmp_path: Path, method: str, entry: str,
                                                               expected: str) -> None:
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, with_parameters(entry, method)))
    assert caught.value.problems == (expected,)


METHODS = {
    "missing": ("metric: {name: eval/loss}", "method: missing; write bayes, random or grid"),
    "unknown": ("method: bayesian", "method: must be bayes, random or grid, got 'bayesian'"),
    "a list": ("method: [bayes]", "method: must be bayes, random or grid, got ['bayes']"),
    "bayes without a metric": ("method: bayes", "metric: missing, and bayes cannot search without it; write metric: "
                                                "with name: eval/loss and goal: minimize below it"),
    "hyperband without a metric": ("method: random\nearly_terminate: {type: hyperband, min_iter: 3}",
                                   "early_terminate: needs a metric; write metric: with name: eval/loss and goal: "
                                   "minimize below it"),
}


@pytest.mark.parametrize(("lines", "expected"), METHODS.values(), ids=METHODS)
def test_a_wrong_method_says_what_to_write(tmp_path: Path, lines: str, expected: str) -> None:
    text = f"{lines}\nparameters: {{warmup_ratio: {{values: [0.0, 0.05]}}}}\n"
    with pytest.raises(SweepError, match=re.escape(expected)) as caught:
        read_sweep(write(tmp_path, text))
    assert caught.value.problems == (expected,)


@pytest.mark.parametrize(("lines", "expected"), [
    ("", "parameters: missing; name what to search, such as learning_rate, and what is fixed"),
    ("parameters: {}", "parameters: missing"),
    ("parameters: [lora_r]", "parameters: must be a mapping of hyperparameters, got ['lora_r']"),
    ("parameters: {lora_r: {value: 8}}", "parameters: nothing to search, every parameter has one value; give one of "
                                         "them values or min and max, or use method: grid for a single trial"),
])
def test_parameters_that_search_nothing_are_refused(tmp_path: Path, lines: str, expected: str) -> None:
    with pytest.raises(SweepError, match=re.escape(expected)):
        read_sweep(write(tmp_path, f"method: bayes\nmetric: {{name: eval/loss}}\n{lines}\n"))


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, """
method: bayes
metric: {name: eval/loss, goal: min}
run_caps: 3
parameters:
  lora_rr: {value: 8}
  learning_rate: {distribution: log_uniform_values, min: 5.0e-6, max: 2e-4}
  weight_decay: {min: 0.2, max: 0.1}
early_terminate: {type: hyperband}
""")
    with pytest.raises(SweepError, match=r"bad.yaml: 6 problems\n") as caught:
        read_sweep(path)
    assert str(caught.value) == f"""{path}: 6 problems
  run_caps: no such key; did you mean 'run_cap'?
  metric.goal: must be 'minimize' or 'maximize', got 'min'; write minimize
  parameters.lora_rr: no such hyperparameter; did you mean 'lora_r'?
  parameters.learning_rate.max: '2e-4' is text to YAML; write 2.0e-4
  parameters.weight_decay.min: must be below max, got min 0.2 and max 0.1; swap them
  early_terminate: needs min_iter, or max_iter and s; write min_iter: 3 to decide from the third evaluation"""


def test_values_that_clash_only_together_are_found(tmp_path: Path) -> None:
    text = "method: random\nparameters: {hidden_size: {values: [8, 12]}, heads: {values: [2, 4, 8]}}"
    with pytest.raises(SweepError, match="parameters: hidden_size 12 with heads 8: hidden_size 12 cannot be split"):
        read_sweep(write(tmp_path, text), HeadsConfig)


def test_a_fixed_value_that_clashes_with_a_searched_one_is_found(tmp_path: Path) -> None:
    text = "method: random\nparameters: {hidden_size: {value: 12}, heads: {values: [2, 8]}}"
    with pytest.raises(SweepError, match="parameters: heads 8: hidden_size 12 cannot be split over 8 heads"):
        read_sweep(write(tmp_path, text), HeadsConfig)


def test_a_value_that_clashes_with_a_default_alone_is_no_problem(tmp_path: Path) -> None:
    text = "method: random\nparameters: {hidden_size: {value: 15}, heads: {values: [3, 5]}}"
    assert read_sweep(write(tmp_path, text), HeadsConfig).count == 2


@pytest.mark.parametrize("text", ["1e-5", "2E4", "5e+3", "1.e-5", "-3e2", "2_0e3", "+.5e-1"])
def test_the_number_that_is_suggested_is_one_to_yaml(tmp_path: Path, text: str) -> None:
    value = read_one(tmp_path, f"value: {yaml_number(text)}").from_unit(0)
    assert isinstance(value, float)
    assert value == float(text)
    assert "_" not in yaml_number(text)


# Warnings

WARNINGS = {
    "linear learning rate": (with_parameters("learning_rate: {min: 5.0e-6, max: 2.0e-4}"),
                             "parameters.learning_rate: min and max without a distribution are drawn evenly, so half "
                             "of the trials are above 0.000103; add distribution: log_uniform_values"),
    "exponents": (with_parameters("learning_rate: {distribution: log_uniform, min: -12.0, max: -8.0}"),
                  "parameters.learning_rate: min and max of log_uniform are exponents of e: the values lie between "
                  "6.14e-06 and 0.000335; log_uniform_values takes the values themselves"),
    "not ascending": (with_parameters("lora_r: {values: [8, 32, 16]}"),
                      "parameters.lora_r.values: is searched in this order, and [8, 32, 16] is not ascending; write "
                      "[8, 16, 32]"),
    "a value twice": (with_parameters("lora_r: {values: [8, 8, 16]}"),
                      "parameters.lora_r.values: lists a value twice, so it is tried twice as often"),
    "few points": (with_parameters("lora_r: {values: [8, 16]}") + "run_cap: 5\n",
                   "run_cap: 5 trials, but only 4 are different"),
    "a loss that grows": (with_top("metric: {name: eval/loss, goal: maximize}"),
                          "metric.goal: maximize looks for the worst eval/loss; a loss is minimized"),
    "impute best": (with_top("metric: {name: eval/loss, impute: best}"),
                    "metric.impute: best makes W&B take a trial that failed before its first evaluation for a perfect "
                    "0; leave it out"),
    "too few evaluations": (with_parameters("max_steps: {value: 20}\n  eval_steps: {value: 10}")
                            + "early_terminate: {type: hyperband, min_iter: 2}\n",
                            "early_terminate: decides nothing: a trial has 2 evaluations (max_steps 20, eval_steps "
                            "10); lower eval_steps"),
}


@pytest.mark.parametrize(("text", "expected"), WARNINGS.values(), ids=WARNINGS)
def test_what_may_not_be_meant_is_a_warning(tmp_path: Path, text: str, expected: str) -> None:
    assert read_sweep(write(tmp_path, text)).warnings == (expected,)


@pytest.mark.parametrize("text", [
    with_parameters("learning_rate: {distribution: uniform, min: 5.0e-6, max: 2.0e-4}"),
    with_parameters("lora_r: {values: [8, 32, 16]}", method="random"),
    with_parameters("load_in_4bit: {values: [true, false]}", method="grid"),
    with_parameters("seed: {min: 1, max: 5}") + "early_terminate: {type: hyperband, min_iter: 3}\nrun_cap: 10\n",
    with_parameters("early_stopping_patience: {value: null}"),
    with_parameters("target_modules: {values: [all-linear, [q_proj, v_proj]]}"),
    with_parameters("lora_r: {distribution: q_uniform, min: 8, max: 32, q: 8.0}"),
    with_parameters("learning_rate: {distribution: log_normal, mu: -9, sigma: 1}"),
])
def test_what_is_meant_gives_no_warning(tmp_path: Path, text: str) -> None:
    assert read_sweep(write(tmp_path, text)).warnings == ()


def test_a_file_of_hyperparameters_is_a_sweep_of_one_configuration(tmp_path):
    (tmp_path / "one.yaml").write_text("learning_rate: 1.0e-4\nlora_r: 16\n")
    spec = read_configuration(tmp_path / "one.yaml")
    assert (spec.name, spec.method, spec.count) == ("one", "grid", 1)
    assert spec.grid() == [{"learning_rate": 1e-4, "lora_r": 16}]


def test_problems_of_a_configuration_are_named_as_they_stand_in_the_file(tmp_path):
    (tmp_path / "one.yaml").write_text("learning_rate: -1.0\nlora_rr: 16\n")
    with pytest.raises(SweepError, match=r"(?s)one\.yaml: 2 problems.*\n  lora_rr: .*did you mean 'lora_r'"
                                         r".*\n  learning_rate: .*above 0, got -1\.0"):
        read_configuration(tmp_path / "one.yaml")
    with pytest.raises(SweepError, match="is a sweep file; run it with: python -m kaggle_runner sweep"):
        read_configuration(shipped_sweep("demo"))
