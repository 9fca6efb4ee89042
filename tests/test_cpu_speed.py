"""Threads and dtype are what was measured as fastest, and stay what they were."""

import time

import pytest
import torch

from kaggle_runner.training.cpu_speed import choose


@pytest.fixture(autouse=True)
def threads_of_this_process():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batch_that_takes(seconds_by_threads, bfloat16=1.0):
    """`bfloat16`: its time as a share of float32's."""
    return lambda dtype: time.sleep(seconds_by_threads[torch.get_num_threads()] * (
        bfloat16 if dtype is torch.bfloat16 else 1.0))


def test_one_thread_stays_where_two_are_not_worth_it(tmp_path):
    choice = choose(batch_that_takes({1: 0.02, 2: 0.03}), most_threads=2, cache_directory=tmp_path, key="a")
    assert choice.threads == torch.get_num_threads() == 1
    assert choice.reason.startswith("1 CPU thread, float32 (a batch takes, by threads, 1: 2")


def test_more_threads_are_taken_where_they_are_faster(tmp_path):
    batch = batch_that_takes({1: 0.12, 2: 0.06, 3: 0.02})
    assert choose(batch, most_threads=3, cache_directory=tmp_path, key="a").threads == 3


@pytest.mark.parametrize(("share", "dtype"), [(0.4, torch.bfloat16), (0.9, torch.float32), (3.0, torch.float32)])
def test_bfloat16_is_taken_only_where_it_is_much_faster(tmp_path, share, dtype):
    batch = batch_that_takes({1: 0.2}, share)  # a busy machine adds some hundredths
    assert choose(batch, most_threads=1, cache_directory=tmp_path, key="a").compute_dtype is dtype


def test_the_first_answer_is_taken_again(tmp_path):
    first = choose(batch_that_takes({1: 0.3, 2: 0.15}, 0.2), most_threads=2, cache_directory=tmp_path, key="a")
    again = choose(lambda dtype: pytest.fail("it was measured already"), most_threads=2, cache_directory=tmp_path,
                   key="a")
    assert again == first
    assert torch.get_num_threads() == 2
    assert again.compute_dtype is torch.bfloat16
