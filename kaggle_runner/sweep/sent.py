"""What W&B gets of a sweep file: the file as it stands, but in the form that W&B's own engine takes as it was meant.

The engine has slips: bayes takes false, 0, null and empty text for the first of `values` wherever they stand, and
fails on `probabilities`; Hyperband fails on a `max_iter` without `s`, and on an `s` of 2.0. The tables of parameters
and of early_terminate are read by the same rules, so what runs here is what W&B was sent.

Source: PyPI `sweeps` 0.3.0, `bayes_search`, `params`, `hyperband_stopping` and `config/schema.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kaggle_runner.config_fields import has_type
from kaggle_runner.sweep.nesting import is_nested
from kaggle_runner.sweep.problems import LARGEST, NUMBER
from kaggle_runner.sweep.study_settings import OUR_KEYS

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "none": None}
"""What words mean that are text to YAML in quotes, and None always."""
LAUNCH_KEYS = ("job", "image_uri")
"""W&B Launch's, which no agent of ours uses: a server that got them would look for a queue."""


def settled(entry: Any, field: Any) -> Any:
    """Return an entry with what its values mean to the field, and numbers of one kind: 0 beside 0.1 is 0.0.

    Min and max as text are left: W&B refuses them, and so do we.
    """
    if not isinstance(entry, Mapping) or field is None:
        return entry
    changed = dict(entry)
    if "value" in entry:
        changed["value"] = _meant(entry["value"], field)
    if isinstance(entry.get("values"), list):
        changed["values"] = [_meant(value, field) for value in entry["values"]]
    if isinstance(changed.get("values"), list):
        changed["values"] = _of_one_kind(changed["values"], has_type(0.5, field))
    if _mixes([entry.get("min"), entry.get("max")]) and entry.get("distribution", "uniform") == "uniform":
        changed["min"], changed["max"] = float(entry["min"]), float(entry["max"])
    return changed


def _meant(value: Any, field: Any) -> Any:
    """Return what a text, 0 or 1 means to a field that takes no such; all else as it is.

    '1e-5' is text to YAML, a quoted 'true' and Python's None as well, which names nothing where text is taken either.
    """
    if value == "None" and has_type(None, field):
        return None
    if isinstance(value, str) and not has_type(value, field):
        word = WORDS.get(value.lower(), value)
        return word if has_type(word, field) else _number_of(value) if has_type(1, field) else value
    if isinstance(value, int | float) and value in (0, 1) and has_type(True, field) and not has_type(1, field):
        return bool(value)
    return value


def _number_of(value: str) -> Any:
    """Return the number that a text means; everything else, and what no hyperparameter can be, as it is."""
    if not NUMBER.fullmatch(value):
        return value
    number = float(value)
    if abs(number) > LARGEST:
        return value
    return int(value) if not set(value) & set(".eE") else number


def without_impossible(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a choice without its probabilities, and without the values whose probability is 0."""
    chances = entry["probabilities"]
    kept = [value for value, chance in zip(entry["values"], chances, strict=True) if chance > 0]
    return {"values": kept, **{key: value for key, value in entry.items()
                               if key not in ("values", "probabilities", "distribution")}}


def false_first(values: Sequence[Any]) -> list[Any]:
    """Return a list with what Python takes for false before the rest, each part in its order."""
    return [value for value in values if not value] + [value for value in values if value]


def settled_stop(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return an early_terminate section without what W&B ignores or fails on, and with whole numbers.

    With `max_iter` and `s`, `min_iter` says nothing; without either of the two, the other fails beside `min_iter`.
    """
    whole = {key: int(value) if key in ("min_iter", "max_iter", "s") and isinstance(value, float)
             and value.is_integer() else value for key, value in raw.items()}
    if "min_iter" not in raw:
        return whole
    idle = ("min_iter",) if "max_iter" in raw and "s" in raw else ("max_iter", "s")
    return {key: value for key, value in whole.items() if key not in idle}


def sent_to_wandb(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file that was read and found right, as W&B gets it."""
    sent = {key: value for key, value in raw.items() if key not in (*OUR_KEYS, *LAUNCH_KEYS)}
    if isinstance(sent.get("run_cap"), float):
        sent["run_cap"] = int(sent["run_cap"])
    if sent.get("controller", {}).get("type") == "local":
        del sent["controller"]
    if "early_terminate" in sent:
        sent["early_terminate"] = settled_stop(sent["early_terminate"])
    if "parameters" in sent:
        sent["parameters"] = _sent_parameters(sent["parameters"], fields, raw["method"])
    return sent


def _sent_parameters(entries: Mapping[str, Any], fields: Mapping[str, Any], method: str) -> dict[str, Any]:
    return {name: {"parameters": _sent_parameters(entry["parameters"], fields, method)} if is_nested(entry)
            else _sent_entry(dict(settled(entry, fields.get(name))), method) for name, entry in entries.items()}


def _sent_entry(entry: dict[str, Any], method: str) -> dict[str, Any]:
    if "probabilities" in entry and method in ("bayes", "grid"):
        entry = without_impossible(entry)
    if method == "bayes" and "values" in entry:
        entry["values"] = false_first(entry["values"])
    return entry


def _of_one_kind(values: list[Any], takes_fractions: bool) -> list[Any]:
    if not _mixes(values):
        return values
    numbers = [value for value in values if _is_number(value)]
    if not takes_fractions and not all(float(value).is_integer() for value in numbers):
        return values
    return [(float(value) if takes_fractions else int(value)) if _is_number(value) else value for value in values]


def _mixes(values: Sequence[Any]) -> bool:
    """Say whether there are whole numbers beside fractions."""
    return len({type(value) for value in values if _is_number(value)}) > 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
