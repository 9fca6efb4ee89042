"""Why an agent ended: its own reason, else what has become of the sweep, and nothing that nobody knows."""

from kaggle_runner.machine.deadline import in_minutes
from kaggle_runner.wandb.ending import AgentPatience, Ending
from kaggle_runner.wandb.ends.client_words import ClientWords
from kaggle_runner.wandb.sweep import RemoteSweep, state_of
from kaggle_runner.wording import how_many

NO_JOB = "no trial from W&B"


def verdict_on(ending: Ending, sweep: RemoteSweep, patience: AgentPatience, words: ClientWords,
               given_back: int = 0) -> tuple[int, str]:
    """Return the exit status and the reason; so many runs, whose trials never began, are back in the sweep's queue."""
    if ending.reason and ending.reason != NO_JOB:
        return ending.exit_status, ending.reason
    state = state_of(sweep)
    if state == "FINISHED" and given_back:
        return 1, (f"the sweep is finished, and {how_many(given_back, 'trial')} went back to its queue; to go on: "
                   f"wandb sweep --resume {sweep.path}, then this again")
    no_job = f" for {in_minutes(patience.no_job_s)}" if ending.reason else ""
    verdicts = {
        "FINISHED": (0, "the sweep is finished: it has all its trials"),
        "CANCELED": (0, "the sweep was cancelled on W&B"),
        "DELETED": (1, "the sweep was deleted on W&B; the study keeps its trials"),
        "PAUSED": (1, f"the sweep has been paused{no_job}; run: wandb sweep --resume {sweep.path}, then this again"),
        "UNREACHABLE": (1, f"W&B could not be reached{no_job}; the study keeps the trials, run the same command again"),
    }
    seen = (f"it answered our last {how_many(words.failed_requests, 'request')} for one with: {words.last_answer}"
            if words.failed_requests else f"its client last tried again what was answered with {words.retried}"
            if words.retried else "it answered none of our requests for one with an error")
    if sweep.spec.raw.get("scheduler") and not words.failed_requests:
        seen = f"{seen}; the points of this sweep are chosen by a process somewhere, so see that it runs"
    return verdicts.get(state, (1, f"W&B handed out no trial{no_job} though the sweep is {state.lower()}: {seen}; look "
                                   f"at {sweep.url}, and run the same command again to go on"))
