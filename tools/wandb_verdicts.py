"""Ask W&B's own package about the made sweep files of the tests: `python tools/wandb_verdicts.py`.

It needs PyPI `sweeps`, which wants numpy 1, so a virtual environment of its own: `pip install sweeps`. Every file's
recorded verdict is compared with the package's; of each file that is read, W&B's schema must take what is sent, its
search must give a trial that the sweep contains, bayes must tell its values apart, and Hyperband must not fail.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import sweeps
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from kaggle_runner.sweep.spec import read_sweep
from tests.sweep_files import READ, REFUSED


def verdict(config: object) -> list[str]:
    """Return what W&B's schema has against a file."""
    try:
        return list(sweeps.schema_violations_from_proposed_config(config))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def trial_of(config: dict) -> dict | None:
    """Have W&B's engine draw a trial; of bayes after three that are known, so that its model is asked."""
    runs = []
    for value in (3.0, 2.0, 1.0) if config["method"] == "bayes" else ():
        run = sweeps.next_run({**config, "method": "random"}, [])  # differs from call to call
        runs.append(sweeps.SweepRun(name=str(value), state="finished", config=run.config,
                                    summary_metrics={config["metric"]["name"]: value},
                                   history=[{config["metric"]["name"]: value}]))
    run = sweeps.next_run(config, runs)
    if "early_terminate" in config:
        sweeps.stop_runs(config, runs)
    return run and {name: _plain(entry["value"]) for name, entry in run.config.items()}


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value


def main() -> int:
    """Compare, print what differs, and return how many files do."""
    warnings.simplefilter("ignore")
    differ = 0
    for name, made in {**READ, **REFUSED}.items():
        said = verdict(yaml.safe_load(made.text.lstrip("\ufeff")))
        if made.takes != (not said):
            differ += 1
            print(f"{name}: recorded {'takes' if made.takes else 'refuses'}, W&B says {said}")
    for name, made in READ.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made.yaml"
            path.write_bytes(made.text.encode())
            spec = read_sweep(path)
        sent = dict(spec.for_wandb)
        said = verdict(sent)
        if said and made.takes:
            differ += 1
            print(f"{name}: W&B refuses what is sent: {said}")
        if spec.method == "custom":
            continue
        try:
            given = trial_of(sent)
            params = spec.given_by_wandb(given or {}) | dict(spec.held)
            if not spec.contains(params):
                differ += 1
                print(f"{name}: W&B's trial {given} is none of the sweep's")
        except Exception as error:
            differ += 1
            print(f"{name}: W&B's engine fails on what is sent: {type(error).__name__}: {error}")
    print(f"{len(READ) + len(REFUSED)} files, {differ} differences")
    return differ


if __name__ == "__main__":
    sys.exit(bool(main()))
