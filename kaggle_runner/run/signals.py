"""How a person ends a session: the first Ctrl-C asks for a checkpoint, the second ends everything at once."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from kaggle_runner.errors import INTERRUPTED
from kaggle_runner.events import EndAsked, Notify

LEAVE_S = 5.0
"""Seconds that a process gets to end by itself when it is interrupted before it began to work."""


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a session, with its trials checkpointed: Ctrl-C, a host, a terminal that was closed."""


@contextlib.contextmanager
def end_on_signals(notify: Notify) -> Iterator[threading.Event]:
    """Turn the first signal that ends a session into an event, and say so; the second ends the process, and says it.

    Nothing of the record is lost by that: it is on the disk line by line, and workers end when their pipe closes. A
    third one ends the process even if nobody can be told.
    """
    ending, numbers = threading.Event(), []
    with told_of_signals(notify, lambda: os._exit(INTERRUPTED)) as came:

        def handle(number: int, frame: Any) -> None:
            ending.set()
            numbers.append(number)
            if len(numbers) > 2:
                os._exit(INTERRUPTED)
            came(number)

        is_main = threading.current_thread() is threading.main_thread()  # no other one may set handlers
        with handling(handle) if is_main else contextlib.nullcontext():
            yield ending


@contextlib.contextmanager
def interrupts_before_work(tell: Callable[[str], None],
                           is_done: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn signals that end a session into a `KeyboardInterrupt`, where no trial is under way that could be lost.

    What swallows it, or needs more than a few seconds to end, as clients of servers do, is ended with the process:
    `tell` then gets the last word. Whoever begins to work sets handlers of its own in the place of these. Where all
    `is_done` but to say so, a signal comes too late and is passed over.
    """
    def leave(name: str) -> None:
        tell(f"interrupted by {name}: nothing that was recorded is lost, the same command goes on")
        os._exit(INTERRUPTED)

    def handle(number: int, frame: Any) -> None:
        if is_done():
            return
        timer = threading.Timer(LEAVE_S, leave, (signal.Signals(number).name,))
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    with handling(handle):
        yield


@contextlib.contextmanager
def handling(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP in the main thread; the handlers that were there come back.

    SIGHUP says that the terminal is gone: nobody reads what is printed there, and printing would fail. Where it is
    ignored, as `nohup` has it, it stays so.
    """
    terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def take(number: int, frame: Any) -> None:
        if number == signal.SIGHUP and terminals:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            while terminals:
                os.dup2(nowhere, terminals.pop())
            os.close(nowhere)
        handle(number, frame)

    before = {number: signal.signal(number, take) for number in ENDS
              if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def told_of_signals(notify: Notify, at_the_second: Callable[[], None]) -> Iterator[Callable[[int], None]]:
    """Give what a signal handler calls with each signal; a thread tells of it, and does what the second one wants.

    A handler interrupts anything, a display that holds its lock too, so it only puts the signal down.
    """
    came: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # its put may interrupt itself

    def speak() -> None:
        for again in (False, True):
            number = came.get()
            if number is None:
                return
            notify(EndAsked(signal=signal.Signals(number).name, again=again))
        at_the_second()

    speaker = threading.Thread(target=speak, name="signals", daemon=True)
    speaker.start()
    try:
        yield came.put
    finally:
        came.put(None)
        speaker.join()
