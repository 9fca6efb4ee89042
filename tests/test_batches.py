import itertools

import numpy as np
import pytest

from kaggle_runner.training.data.batches import ROWS_ALIKE, EncodedRows, collate, step_batches


def rows_of(lengths):
    """Make rows of these lengths; the tokens of row i are i, the first half of each is its prompt."""
    lengths = np.asarray(lengths)
    return EncodedRows(tokens=np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
                       starts=np.concatenate([[0], np.cumsum(lengths)]),
                       trained=np.concatenate([np.arange(length) >= length // 2 for length in lengths]))


@pytest.fixture
def rows():
    return rows_of(np.random.default_rng(0).integers(2, 300, size=1203))


def steps_of(rows, first, count, *, batch_size=2, accumulation=4, seed=1, pass_tokens=32):
    return [step_batches(rows, batch_size=batch_size, accumulation=accumulation, seed=seed, step=step,
                         pass_tokens=pass_tokens) for step in range(first, first + count)]


def order_of(steps):
    return np.concatenate([row for step in steps for row in step]).tolist()


def test_a_step_can_be_asked_for_without_those_before_it(rows):
    first = steps_of(rows, 0, 400, batch_size=3, accumulation=2, seed=7)
    assert len(rows) < 400 * 6
    for step in (0, 1, 199, 200, 201, 399):
        fresh = rows_of(rows.lengths)  # nothing remembered
        assert order_of(steps_of(fresh, step, 1, batch_size=3, accumulation=2, seed=7)) == order_of([first[step]])


@pytest.mark.parametrize("effective", [8, 16, 24])
def test_an_optimizer_step_sees_the_same_rows_however_it_is_cut(rows, effective):
    def steps(batch_size):
        return [sorted(order_of([step])) for step in steps_of(
            rows, 0, 200, batch_size=batch_size, accumulation=effective // batch_size, seed=3)]

    assert steps(2) == steps(4) == steps(8) == steps(1)


def test_an_epoch_has_every_row_once_and_fills_its_last_lot(rows):
    per_epoch = -(-len(rows) // ROWS_ALIKE)
    for epoch in range(3):
        seen = np.bincount(order_of(steps_of(rows, epoch * per_epoch, per_epoch, batch_size=ROWS_ALIKE,
                                             accumulation=1)), minlength=len(rows))
        assert seen.min() == 1
        assert seen.sum() - len(rows) == -len(rows) % ROWS_ALIKE


def test_the_first_micro_batch_has_the_longest_row_and_is_the_largest(rows):
    for seed in range(5):
        for batch_size, accumulation in ((1, 8), (2, 4), (4, 4), (8, 2)):
            steps = steps_of(rows, 0, 75, batch_size=batch_size, accumulation=accumulation, seed=seed)
            places = [len(batch) * int(rows.lengths[batch].max()) for step in steps for batch in step]
            assert places[0] == max(places) == batch_size * rows.lengths.max()


def test_a_step_is_cut_where_that_costs_least():
    """Against every way to cut it: 128 of them for 8 rows."""
    draw = np.random.default_rng(5)
    for _ in range(30):
        rows = rows_of(np.append(draw.integers(2, 120, size=8), [150] * 24))
        pass_tokens = int(draw.integers(0, 200))
        for step in steps_of(rows, 1, 3, pass_tokens=pass_tokens):
            def cost(batches, rows=rows, pass_tokens=pass_tokens):
                places = [len(batch) * int(rows.lengths[batch].max()) for batch in batches]
                fits = all(len(batch) <= 2 or place <= 300 for batch, place in zip(batches, places, strict=True))
                return sum(places) + pass_tokens * len(batches) if fits else np.inf

            together = np.concatenate(step)
            ways = [np.split(together, borders) for count in range(8)
                    for borders in itertools.combinations(range(1, 8), count)]
            assert len(ways) == 128
            assert cost(step) == min(map(cost, ways))


def test_short_rows_share_a_micro_batch_and_long_ones_do_not():
    short, long = rows_of([10] * 64 + [80] * 2), rows_of([80] * 64)
    assert [len(batch) for batch in steps_of(short, 1, 1)[0]] == [8]
    assert [len(batch) for batch in steps_of(long, 1, 1)[0]] == [2] * 4
    # two rows of unlike length are apart where their padding would cost more than a pass
    apart = rows_of([80, 10] * 2)
    assert {tuple(map(len, step)) for step in steps_of(apart, 1, 3, accumulation=2, pass_tokens=8)} == {(2, 2)}
    assert {tuple(map(len, step)) for step in steps_of(rows_of([80, 10]), 1, 3, accumulation=1, pass_tokens=8)} == {
        (1, 1)}


def test_the_order_depends_on_the_seed_and_the_epoch(rows):
    def order(seed, start):
        return order_of(steps_of(rows, start, 151, seed=seed))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 151)


def test_the_order_is_the_same_with_every_numpy():
    order = order_of(steps_of(rows_of([3] * 20), 0, 6, batch_size=4, accumulation=1, seed=42))
    assert order == [7, 13, 18, 2, 12, 3, 8, 15, 6, 0, 11, 5, 17, 4, 16, 19, 14, 9, 10, 1, 0, 4, 9, 6]


def padding_share(rows, batches):
    """Return the share of padding among all tokens of some batches."""
    lengths = [rows.lengths[batch] for batch in batches]
    return 1 - sum(int(batch.sum()) for batch in lengths) / sum(len(batch) * int(batch.max()) for batch in lengths)


def test_little_of_a_batch_is_padding(rows):
    def share(batch_size, accumulation):
        steps = steps_of(rows, 0, 150, batch_size=batch_size, accumulation=accumulation)
        return padding_share(rows, [batch for step in steps for batch in step])

    def shuffled_share(batch_size):
        order = np.random.default_rng(1).permutation(len(rows))
        return padding_share(rows, np.array_split(order, 1200 // batch_size))

    assert share(2, 4) < 0.03 < 0.2 < shuffled_share(2)
    assert share(4, 2) < 0.05 < 0.3 < shuffled_share(4)


def test_an_optimizer_step_has_rows_of_many_lengths(rows):
    spread = np.mean([rows.lengths[order_of([step])].std() for step in steps_of(rows, 0, 100)])
    assert spread > 0.8 * rows.lengths.std()


@pytest.mark.parametrize("count", [1, 2, 7, 9])
def test_a_few_rows_are_enough(count):
    seen = order_of(steps_of(rows_of([3] * count), 0, 4, batch_size=4, accumulation=2, seed=0))
    assert len(seen) == 32
    assert set(seen) == set(range(count))


def test_batches_are_padded_on_the_right_and_the_loss_leaves_out_prompt_and_padding():
    rows = rows_of([2, 4, 5])
    batch = collate(rows, np.array([1, 0]), pad_id=9, completion_only=True)
    assert batch.tokens_BT.tolist() == [[1, 1, 1, 1], [0, 0, 9, 9]]
    assert batch.positions_N.tolist() == [1, 2, 4]  # each the place before an answer's token
    assert batch.targets_N.tolist() == [1, 1, 0]
    assert (batch.tokens, batch.padded_tokens) == (6, 8)
    assert {array.dtype for array in (batch.tokens_BT, batch.positions_N, batch.targets_N)} == {np.dtype(np.int64)}
    whole = collate(rows, [2, 0], pad_id=9, completion_only=False)
    assert whole.positions_N.tolist() == [0, 1, 2, 3, 5]
    assert whole.targets_N.tolist() == [2, 2, 2, 2, 0]


def test_a_row_without_a_prompt_counts_from_its_second_token():
    rows = EncodedRows(tokens=np.arange(3, dtype=np.int32), starts=np.array([0, 3]), trained=np.ones(3, dtype=bool))
    assert collate(rows, [0], pad_id=9, completion_only=True).positions_N.tolist() == [0, 1]


def test_several_stretches_of_a_row_count_and_what_is_between_them_does_not():
    rows = EncodedRows(tokens=np.arange(10, 18, dtype=np.int32), starts=np.array([0, 8]),
                       trained=np.array([False, False, True, True, False, False, True, False]))
    batch = collate(rows, [0], pad_id=9, completion_only=True)
    assert batch.positions_N.tolist() == [1, 2, 5]
    assert batch.targets_N.tolist() == [12, 13, 16]
