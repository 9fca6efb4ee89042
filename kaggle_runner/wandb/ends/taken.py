"""Whether an open run is another agent's by now: a machine slept, or was cut off, until W&B gave its trial out again.

W&B tells that to nobody: two agents would train the trial, and write into one run. So each opening has a name of its
own in the run's configuration.
"""

import threading
import time
import uuid

from kaggle_runner.wandb.answers import ASK_EVERY_S, HOLDER, ask_run
from kaggle_runner.wandb.ending import AgentPatience
from kaggle_runner.wandb.run import RunLog


class Hold:
    """This agent's hold on an open run, looked at in the background: now and then, and at once after a sleep."""

    def __init__(self, log: RunLog, patience: AgentPatience) -> None:
        self.name = uuid.uuid4().hex
        self.lost_to = ""
        """Who has the run, as far as W&B has said; empty while it is ours."""
        self._path, self._patience, self._earlier = log.path, patience, log.params.get(HOLDER)
        self._looked, self._due, self._was_seen = time.time(), 0.0, False
        self._asking = threading.Thread()

    def look(self) -> None:
        """Ask, in a thread, when it is time for it."""
        now = time.time()  # which goes on while a machine sleeps
        slept, self._looked = now - self._looked > self._patience.slept_s, now
        if (slept or now > self._due) and not self._asking.is_alive():
            self._due = now + ASK_EVERY_S
            self._asking = threading.Thread(target=self.ask, name="hold", daemon=True)
            self._asking.start()

    def ask(self) -> str:
        """Ask now, and return who has it; not known before W&B has once shown the run as ours."""
        seen = ask_run(self._path)[1]
        if seen.holder == self.name:
            self._was_seen, self._due = True, time.time() + self._patience.told_s
        elif self._was_seen and seen.holder not in ("", self._earlier):
            self.lost_to = f"{seen.study} on {seen.host}"
        return self.lost_to
