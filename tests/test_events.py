"""What our processes tell each other, as lines."""

import dataclasses
import json
import re

import pytest

from kaggle_runner import events
from kaggle_runner.errors import ProtocolError
from kaggle_runner.events import EVENTS, REQUESTS, Logged, Note, Request, TrialEnded, read_event, read_request

SAMPLES = {"str": "text", "str | None": "words", "int": 3, "float": 0.25, "bool": True, "int | None": 7,
           "float | None": None,
           "tuple[int, ...]": (2, 5), "tuple[float, ...]": (0.5, 2.0),
           "Mapping[str, Any]": {"a": [1, {"b": None}]}, "Mapping[str, str]": {"torch": "2"},
           "Literal['minimize', 'maximize']": "maximize", "Mapping[str, float]": {"eval/loss": 1.5},
           "Mapping[str, float | None]": {"train/loss": 1.5, "train/grad_norm": None}}


def sample(kind):
    """Return a message of a kind, each field filled by its type."""
    return kind(**{field.name: SAMPLES[spelled(field.type)] for field in dataclasses.fields(kind)})


def spelled(known):
    return known.__name__ if type(known) is type else re.sub(r"collections\.abc\.|typing\.", "", str(known))


@pytest.mark.parametrize("kind", [*EVENTS.values(), *REQUESTS.values()], ids=lambda kind: kind.__name__)
def test_a_message_comes_back_from_its_line(kind):
    message = sample(kind)
    line = message.to_json()
    assert "\n" not in line
    assert (read_request if isinstance(message, Request) else read_event)(line) == message


def test_a_row_of_numbers_stands_beside_its_step():
    line = Logged(step=2, trial="0001", values={"eval/loss": 3.5, "tokens": 80}).to_json()
    assert json.loads(line) == {"event": "log", "step": 2, "eval/loss": 3.5, "tokens": 80, "trial": "0001"}
    assert read_event(line).row == {"step": 2, "eval/loss": 3.5, "tokens": 80}


def test_a_field_of_a_newer_version_is_left_out():
    assert read_event('{"event": "note", "text": "hello", "colour": "red"}') == Note(text="hello")


@pytest.mark.parametrize(("line", "said"), [
    ('{"event": "explosion"}', "no event is called 'explosion'; both processes must run the same version"),
    ('{"step": 1}', "no event is called None"),
    ("Traceback (most recent call last):", "not a line of JSON: 'Traceback"),
    ("[1]", r"not a JSON object: '\[1\]'"),
    ('{"event": "trial_ended", "status": "complete"}', "a 'trial_ended' line lacks something: .*metric"),
    ('{"event": "log", "eval/loss": 2.0}', "a 'log' line lacks something: step")])
def test_a_line_that_nobody_can_read_says_so(line, said):
    with pytest.raises(ProtocolError, match=said):
        read_event(line)


def test_an_unknown_request_is_named():
    with pytest.raises(ProtocolError, match="no request is called 'dance'"):
        read_request('{"type": "dance"}')


def test_a_number_that_json_does_not_know_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        TrialEnded(status="failed", metric=float("nan"), seconds=1.0).to_json()


def test_kinds_are_unique():
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Message)
             and hasattr(kind, "kind")]
    assert len(kinds) == len(EVENTS) + len(REQUESTS)
