"""One configuration as it trains on all rows: what a final training and its plan are made from."""

from kaggle_runner.config import MOST_EPOCHS
from kaggle_runner.errors import ConfigError
from kaggle_runner.metrics import Metric
from kaggle_runner.sweep.spec import SweepSpec, check_config


def full_spec(spec: SweepSpec, epochs: float | None, metric: Metric | None = None) -> SweepSpec:
    """Return a configuration as it trains on all rows: for its epochs, by default its own or one.

    `metric` is that of the study that it won.

    Raises:
        ConfigError: a character model, or too many epochs.
        SweepError: a value that cannot work.
    """
    if spec.trainer != "finetune":
        raise ConfigError(f"--full is for fine-tunes, and {spec.source} is a {spec.trainer} model: max_tokens says how "
                          f"much of its text one of them sees; raise it and train without --full")
    if epochs is not None and epochs > MOST_EPOCHS:
        raise ConfigError(f"--epochs must be at most {MOST_EPOCHS:,}, got {epochs:g}")
    values = {name: value for name, value in spec.fixed.items() if name not in ("samples", "max_steps")}
    values |= {"full_dataset": True, "num_train_epochs": epochs or values.get("num_train_epochs") or 1}
    name, goal = (metric.name, metric.goal) if metric else (spec.metric, spec.goal)
    return check_config({"method": "grid", "metric": {"name": name, "goal": goal},
                         "parameters": {name: {"value": value} for name, value in values.items()}}, spec.source)
