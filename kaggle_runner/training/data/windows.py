"""Which windows of one long text a training step reads: known from its number alone, so a resumed run reads the same.

Both pretraining loops take their batches from here. Shapes: B windows, T positions.
"""

import functools

import torch


def window_starts(step: int, *, length: int, window: int, batch: int, seed: int) -> torch.Tensor:
    """Return where the windows of one step start, B of them, in a text of `length` symbols joined to a ring.

    Each epoch cuts the text into windows at another offset and reads them in another order, each at most once.
    """
    epoch, index = divmod(step, length // window // batch)
    offset, order = _epoch(length, window, seed, epoch)
    return (order[index * batch:][:batch] * window + offset) % length


@functools.lru_cache(maxsize=2)
def _epoch(length: int, window: int, seed: int, epoch: int) -> tuple[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    offset = int(torch.randint(length, (), generator=generator))
    return offset, torch.randperm(length // window, generator=generator)
