"""The number of CPU threads is what was measured as fastest, and stays what it was."""

import time

import pytest
import torch

from kaggle_runner.threads import choose_threads


@pytest.fixture(autouse=True)
def threads_of_this_process():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batch_that_takes(seconds_by_threads):
    return lambda: time.sleep(seconds_by_threads[torch.get_num_threads()])


def test_one_thread_stays_where_two_are_not_worth_it(tmp_path):
    threads, reason = choose_threads(batch_that_takes({1: 0.02, 2: 0.03}), most=2, cache_directory=tmp_path, key="a")
    assert threads == torch.get_num_threads() == 1
    assert reason.startswith("1 CPU thread (a batch takes, by threads, 1: 2")


def test_more_threads_are_taken_where_they_are_faster(tmp_path):
    batch = batch_that_takes({1: 0.12, 2: 0.06, 3: 0.02})
    assert choose_threads(batch, most=3, cache_directory=tmp_path, key="a")[0] == 3


def test_the_first_answer_is_taken_again(tmp_path):
    choose_threads(batch_that_takes({1: 0.06, 2: 0.01}), most=2, cache_directory=tmp_path, key="a")
    again = choose_threads(lambda: pytest.fail("it was measured already"), most=2, cache_directory=tmp_path, key="a")
    assert again[0] == torch.get_num_threads() == 2
