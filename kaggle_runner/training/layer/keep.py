"""What a decoder layer keeps for its backward pass; whatever it does not keep is computed again there.

Every list gives the same numbers to the last bit: what is computed again is computed by the same kernels from the same
numbers. Needs no torch, so that the memory planner can talk of lists before anything heavy is imported.
"""

from collections.abc import Sequence

INPUT, ATTENTION, PRODUCTS = "input", "attention", "products"
KEPT: dict[str, tuple[str, ...]] = {
    INPUT: (),
    ATTENTION: ("q", "k", "v", "out", "statistics", "middle"),
    PRODUCTS: ("q", "k", "v", "out", "statistics", "middle", "gate", "up"),
}
"""Names of what is kept besides the layer's input, the shortest list first. The product with the last matrix of the
network is in none of them: no gradient needs it."""


def keep_for(layers: int, *, products: int = 0, attention: int = 0) -> tuple[str, ...]:
    """Return the list of every layer, the longest lists for the last layers.

    The backward pass frees the last layers first, so what the first ones compute again finds their room empty.
    """
    return (INPUT,) * (layers - products - attention) + (ATTENTION,) * attention + (PRODUCTS,) * products


def keep_everywhere(layers: int, *, again: bool) -> tuple[str, ...]:
    """Return the lists of a trial that says whether activations are computed again."""
    return keep_for(layers, products=0 if again else layers)


def in_words(keep: Sequence[str]) -> str:
    """Write lists in the order of the layers: `input 8, products 24`."""
    return ", ".join(f"{name} {keep.count(name)}" for name in KEPT if name in keep)


def from_words(text: str) -> tuple[str, ...]:
    """Read the lists of `in_words`."""
    counts = (part.rsplit(" ", 1) for part in text.split(", "))
    return tuple(name for name, count in counts for _ in range(int(count)))
