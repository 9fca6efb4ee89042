import itertools

import numpy as np
import pytest

from kaggle_runner.batches import ROWS_ALIKE, EncodedRows, batch_indices, batches, collate, padding_share


def rows_of(lengths):
    """Make rows of these lengths; the tokens of row i are i, the first half of each is its prompt."""
    lengths = np.asarray(lengths)
    return EncodedRows(tokens=np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
                       starts=np.concatenate([[0], np.cumsum(lengths)]),
                       completion_starts=(lengths // 2).astype(np.int32))


@pytest.fixture
def rows():
    return rows_of(np.random.default_rng(0).integers(2, 300, size=1203))


def test_a_position_can_be_asked_for_without_those_before_it(rows):
    first = list(itertools.islice(batches(rows, batch_size=3, seed=7, accumulation=2), 1500))
    assert len(first) * 3 > 3 * len(rows)
    for position in (0, 1, 399, 401, 402, 700, 1499):
        fresh = rows_of(rows.lengths)  # nothing remembered
        assert batch_indices(fresh, batch_size=3, seed=7, position=position, accumulation=2).tolist() == (
            first[position].tolist())
    later = batches(rows, batch_size=3, seed=7, position=1490, accumulation=2)
    assert [next(later).tolist() for _ in range(10)] == [batch.tolist() for batch in first[1490:]]


@pytest.mark.parametrize("effective", [8, 16, 24])
def test_an_optimizer_step_sees_the_same_rows_however_it_is_cut(rows, effective):
    def steps(batch_size):
        parts = batches(rows, batch_size=batch_size, seed=3, accumulation=effective // batch_size)
        return [sorted(np.concatenate([next(parts) for _ in range(effective // batch_size)])) for _ in range(200)]

    assert steps(2) == steps(4) == steps(8) == steps(1)


def test_an_epoch_has_every_row_once_and_fills_its_last_lot(rows):
    per_epoch = -(-len(rows) // ROWS_ALIKE)
    stream = batches(rows, batch_size=ROWS_ALIKE, seed=1)
    for _ in range(3):
        seen = np.bincount(np.concatenate([next(stream) for _ in range(per_epoch)]), minlength=len(rows))
        assert seen.min() == 1
        assert seen.sum() - len(rows) == -len(rows) % ROWS_ALIKE


def test_the_longest_row_is_in_the_first_micro_batch(rows):
    for seed in range(5):
        for batch_size, accumulation in ((1, 8), (2, 4), (4, 4), (8, 2)):
            first = batch_indices(rows, batch_size=batch_size, seed=seed, position=0, accumulation=accumulation)
            assert rows.lengths[first].max() == rows.lengths.max()


def test_the_order_depends_on_the_seed_and_the_epoch(rows):
    def order(seed, start):
        return np.concatenate([batch_indices(rows, batch_size=8, seed=seed, position=start + p) for p in range(151)])

    assert order(1, 0).tolist() == order(1, 0).tolist()
    assert order(1, 0).tolist() != order(2, 0).tolist()
    assert order(1, 0).tolist() != order(1, 151).tolist()


def test_the_order_is_the_same_with_every_numpy():
    rows = rows_of([3] * 20)
    order = np.concatenate([batch_indices(rows, batch_size=4, seed=42, position=p) for p in range(6)])
    assert order.tolist() == [7, 13, 18, 2, 12, 3, 8, 15, 6, 0, 11, 5, 17, 4, 16, 19, 14, 9, 10, 1, 0, 4, 9, 6]


def test_little_of_a_batch_is_padding(rows):
    def share(batch_size, accumulation):
        return padding_share(rows, [batch_indices(rows, batch_size=batch_size, seed=1, position=p,
                                                  accumulation=accumulation) for p in range(1200 // batch_size)])

    def shuffled_share(batch_size):
        order = np.random.default_rng(1).permutation(len(rows))
        return padding_share(rows, np.array_split(order, 1200 // batch_size))

    assert share(2, 4) < 0.01 < 0.2 < shuffled_share(2)
    assert share(4, 2) < 0.2 < 0.3 < shuffled_share(4)


def test_an_optimizer_step_has_rows_of_many_lengths(rows):
    steps = [np.concatenate([batch_indices(rows, batch_size=2, seed=1, position=4 * step + part, accumulation=4)
                             for part in range(4)]) for step in range(100)]
    spread = np.mean([rows.lengths[step].std() for step in steps])
    assert spread > 0.8 * rows.lengths.std()


def test_padding_is_counted_by_hand():
    # lengths 2, 4 in one batch and 3 in another: 2 of 11 places are padding
    assert padding_share(rows_of([2, 4, 3]), [np.array([0, 1]), np.array([2])]) == pytest.approx(2 / 11)


@pytest.mark.parametrize("count", [1, 2, 7, 9])
def test_a_few_rows_are_enough(count):
    rows = rows_of([3] * count)
    seen = np.concatenate([batch_indices(rows, batch_size=4, seed=0, position=p, accumulation=2) for p in range(8)])
    assert len(seen) == 32
    assert set(seen) == set(range(count))


def test_batches_are_padded_on_the_right_and_labels_leave_out_the_prompt():
    rows = rows_of([2, 4])
    tokens_BT, mask_BT, labels_BT = collate(rows, np.array([1, 0]), pad_id=9, completion_only=True)
    assert tokens_BT.tolist() == [[1, 1, 1, 1], [0, 0, 9, 9]]
    assert mask_BT.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert labels_BT.tolist() == [[-100, -100, 1, 1], [-100, 0, -100, -100]]
    assert tokens_BT.dtype == mask_BT.dtype == labels_BT.dtype == np.int64
    assert collate(rows, [1, 0], pad_id=9, completion_only=False)[2].tolist() == [[1, 1, 1, 1], [0, 0, -100, -100]]
