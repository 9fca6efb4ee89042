"""A function of a test in a process of its own, which nothing that ran before has touched: hooks, caches, a device."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def in_fresh_process(function, *arguments):
    """Return what a module's function returns, or raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
