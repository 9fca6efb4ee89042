"""How long a final training will take, and how much of a week's quota: from its rows and from what a row has taken."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from kaggle_runner.config import FinetuneConfig
from kaggle_runner.study.journal import Snapshot
from kaggle_runner.study.pace import forecast_s
from kaggle_runner.study.what_next import hours


@dataclass(frozen=True, kw_only=True)
class FinalPlan:
    """What a final training comes to."""

    rows: int | None
    """Training rows; none where nobody has counted them."""
    unknown: str
    """Why they are not counted; empty if they are."""
    config: FinetuneConfig
    """With the steps that its epochs take, exactly where the rows are known."""
    epochs: float
    seconds: float | None
    """Wall clock of all sessions together; none where nothing is known of a row's time."""
    reason: str
    gpus: int
    session_s: float
    week_s: float

    @property
    def sessions(self) -> int | None:
        """Sessions that it takes, one after the other."""
        return None if self.seconds is None else math.ceil(self.seconds / self.session_s)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values = {name: value for name, value in asdict(self).items() if name != "config"}
        return values | {"steps": None if self.rows is None else self.config.max_steps, "sessions": self.sessions}

    def as_lines(self) -> list[tuple[str, str]]:
        """Return it as (label, text) lines for a person."""
        if self.rows is None:
            return [("steps", f"unknown {self.unknown}" if self.unknown.startswith("until ") else
                     f"unknown: {self.unknown}"), ("time", "unknown with them")]
        steps = (f"{self.config.max_steps:,} of {self.config.effective_batch_size} rows: {self.epochs:g} "
                 f"pass{'' if self.epochs == 1 else 'es'} over {self.rows:,} rows")
        if self.seconds is None:
            return [("steps", steps), ("time", "unknown until a trial has finished; give --seconds-per-step, or "
                                               "--study with finished trials")]
        where = f" on {self.gpus} GPUs in one training, if {self.gpus} take {_part(self.gpus)} the time of one" \
            if self.gpus > 1 else ""
        free = "; a session counts its wall clock once, however many GPUs it has" if self.gpus > 1 else ""
        return [("steps", steps), ("time", f"{hours(self.seconds)}{where} ({self.reason})"),
                ("sessions", f"{self.sessions} of {hours(self.session_s)}"),
                ("quota", f"{hours(self.seconds)} of the {hours(self.week_s)} of a week{free}")]


def plan_final(config: FinetuneConfig, counted_rows: int | str, *, seconds_per_step: float | None,
               snapshot: Snapshot | None, gpus: int, session_s: float, week_s: float) -> FinalPlan:
    """Forecast a final training of a config whose length is in epochs, from its rows or why they are not known.

    `seconds_per_step` is the user's, of one GPU; without it the complete trials of `snapshot` tell. That several GPUs
    divide the time evenly is an assumption: nobody has measured it.
    """
    epochs = config.num_train_epochs or 1
    rows, unknown = (None, counted_rows) if isinstance(counted_rows, str) else (counted_rows, "")
    counted = config if rows is None else config.counted(rows)
    seconds, reason = None, ""
    if rows is not None and seconds_per_step is not None:
        seconds, reason = counted.max_steps * seconds_per_step, f"{seconds_per_step:g} s a step, as stated"
    elif rows is not None and snapshot is not None:
        seconds, reason = forecast_s(counted, snapshot), "from the complete trials of the study"
    return FinalPlan(rows=rows, unknown=unknown, config=counted, epochs=epochs, reason=reason, gpus=gpus,
                     seconds=None if seconds is None else seconds / gpus, session_s=session_s, week_s=week_s)


def _part(count: int) -> str:
    return "half" if count == 2 else f"1/{count} of"
