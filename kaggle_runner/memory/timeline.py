"""From what a few traced layers allocate and free to the peak of all layers, exactly or not at all.

The layers of a decoder are alike, so what the second and the third of four do is what every one between the first and
the last does. That is checked event by event; where it does not hold, nothing is said and all layers must be traced.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TRACED_LAYERS = 4
"""Number of layers that are traced: the first, two alike ones, and the last."""

Segment = tuple[str, int]
"""A part of a step and its layer, counted from 1; layer 0 is outside the layers."""


class Event(NamedTuple):
    """Memory that is taken, or given back where the size is negative."""

    segment: Segment
    label: str
    size_bytes: int
    born: Segment
    """The segment in which the memory was taken."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that is alive at once."""

    total_bytes: int
    parts: Mapping[str, int]
    """Bytes by label, at the moment of the peak."""


def peak_of(events: Sequence[Event], start: Mapping[str, int]) -> Peak:
    """Return the peak of events as they happened, on top of what is there from the start."""
    return _peak(((event.label, event.size_bytes) for event in events), start)


def peak_of_layers(events: Sequence[Event], start: Mapping[str, int], layers: int) -> Peak | None:
    """Return the peak with `layers` layers from events of `TRACED_LAYERS`; none if the inner two are not alike."""
    segments, order = _by_segment(events)
    if not _are_alike(segments, order):
        return None
    return _peak(_unrolled(segments, order, layers - 2), start)


def peak_of_mixture(events_by_kind: Mapping[str, Sequence[Event]], start: Mapping[str, int],
                    kinds: Sequence[str], *, traced: int = TRACED_LAYERS) -> Peak | None:
    """Return the peak of layers of several kinds, in this order, from events of each kind.

    These are of as many layers as there are, which stand for themselves, or of `TRACED_LAYERS`. None where the inner
    two of these are not alike, or where it matters outside the layers of which kind they are.
    """
    by_kind = {kind: _by_segment(events_by_kind[kind]) for kind in dict.fromkeys(kinds)}
    outside = {kind: [list(_outside(segments[segment])) for segment in order if not segment[1]]
               for kind, (segments, order) in by_kind.items()}
    if any(parts != outside[kinds[-1]] for parts in outside.values()):
        return None
    last, order = by_kind[kinds[-1]]
    if traced == len(kinds):
        return _peak(_mixed({kind: segments for kind, (segments, _) in by_kind.items()}, order, kinds, traced), start)
    if not all(_are_alike(segments, order) for segments, order in by_kind.values()):
        return None
    if any(event.born[1] in range(2, TRACED_LAYERS) for segment in order if not segment[1] for event in last[segment]):
        return None
    return _peak(_mixed({kind: segments for kind, (segments, _) in by_kind.items()}, order, kinds, traced), start)


def _by_segment(events: Sequence[Event]) -> tuple[dict[Segment, list[Event]], list[Segment]]:
    segments: dict[Segment, list[Event]] = defaultdict(list)
    for event in events:
        segments[event.segment].append(event)
    return segments, list(dict.fromkeys(event.segment for event in events))


def _outside(events: Sequence[Event]) -> Iterator[tuple[str, int]]:
    return ((event.label, event.size_bytes) for event in events)


def _mixed(by_kind: Mapping[str, Mapping[Segment, Sequence[Event]]], order: Sequence[Segment],
           kinds: Sequence[str], traced: int) -> Iterator[tuple[str, int]]:
    """Yield label and size of every event of a model whose layers are of these kinds, in its order."""
    done = set()
    for name, layer in order:
        if layer == 0:
            yield from _outside(by_kind[kinds[-1]][name, 0])
        elif name not in done:
            done.add(name)
            numbers = range(len(kinds)) if layer == 1 else range(len(kinds) - 1, -1, -1)
            for number in numbers:
                inner = 2 if traced < len(kinds) else number + 1
                place = 1 if number == 0 else traced if number == len(kinds) - 1 else inner
                yield from _outside(by_kind[kinds[number]].get((name, place), ()))


def _are_alike(segments: Mapping[Segment, Sequence[Event]], order: Sequence[Segment]) -> bool:
    """Say whether the inner layers do the same, and all others treat them alike."""
    inner = range(2, TRACED_LAYERS)
    for name in dict.fromkeys(name for name, layer in order if layer):
        if len({tuple(_relative(segments[name, layer])) for layer in inner}) != 1:
            return False
        if any(event.size_bytes < 0 and not event.born[1] for event in segments[name, 2]):
            return False  # made once, so it cannot be given back by every layer
    return all(_scales(segments[segment]) for segment in order if segment[1] not in inner)


def _unrolled(segments: Mapping[Segment, Sequence[Event]], order: Sequence[Segment],
              copies: int) -> Iterator[tuple[str, int]]:
    """Yield label and size of every event of the deeper model, in its order."""
    for name, layer in order:
        if layer == 3:  # stands for itself in the copies of layer 2
            continue
        for event in segments[name, layer]:
            times = copies - 1 if layer == 0 and event.born[1] == 2 else 1
            yield event.label, event.size_bytes * times
        if layer == 2:
            for _ in range(copies - 1):
                yield from ((event.label, event.size_bytes) for event in segments[name, 3])


def _relative(events: Sequence[Event]) -> Iterator[tuple[str, int, str, int]]:
    """Write a layer's events without the number of the layer."""
    for event in events:
        distance = event.segment[1] - event.born[1] if event.born[1] else TRACED_LAYERS
        yield event.label, event.size_bytes, event.born[0], distance


def _scales(events: Sequence[Event]) -> bool:
    """Say whether a segment outside the inner layers treats them alike, so that more of them can stand in.

    Outside the layers, the third may be given back more than the second: it hands over to the last.
    """
    layer = events[0].segment[1]
    freed = {inner: Counter((event.label, event.size_bytes) for event in events if event.born[1] == inner)
             for inner in (2, 3)}
    if layer == 0:
        return freed[2] <= freed[3]
    return not freed[2 if layer == TRACED_LAYERS else 3]  # an outer layer may free only its neighbour's


def _peak(changes: Iterator[tuple[str, int]], start: Mapping[str, int]) -> Peak:
    alive = Counter(start)
    total = most = sum(start.values())
    parts = dict(alive)
    for label, size_bytes in changes:
        alive[label] += size_bytes
        total += size_bytes
        if total > most:
            most, parts = total, dict(alive)
    return Peak(total_bytes=most, parts=parts)
