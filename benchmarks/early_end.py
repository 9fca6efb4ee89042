"""Measure what ending a long search by itself costs and saves.

    OMP_NUM_THREADS=1 python benchmarks/early_end.py [--seeds 10] [--first-seed 0] [--trials 30]

Made studies on the problems of benchmarks/search.py, each run to its last trial. The rule is the package's own: after
15 trials, when the improvement that the model expects is under a quarter of the noise it sees. Prints how many trials
are left out, and by how much the regret of the best trial at that moment is above that at the end.
"""

import argparse
import math
import random
import statistics

from search import scale_of
from search_problems import measured, problems

from kaggle_runner.run.points.propose import Observation, Told, propose
from kaggle_runner.run.search import LONG, STOP_SHARE


def main() -> None:
    """Make the studies and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=30)
    asked = parser.parse_args()
    saved, cost = [], []
    for problem in problems():
        least, middling = scale_of(problem.name)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            noise, past, ended = random.Random(f"{problem.name} {seed}"), [], None
            for number in range(asked.trials):
                proposal = propose(problem.spec, seed=seed, number=number, past=past, defaults=problem.defaults)
                if proposal is None:
                    break
                expected = proposal.expected
                if ended is None and number >= LONG and expected is not None \
                        and expected.gain < STOP_SHARE * expected.noise:
                    ended = number
                past.append(Observation(params=proposal.params, told=Told.VALUE,
                                        value=measured(problem, proposal.params, noise)))
            chosen, last = (problem.loss(min(trials, key=lambda observation: observation.value).params)
                            for trials in (past[:ended], past))
            saved.append(len(past) - (ended or len(past)))
            cost.append((chosen - last) / (middling - least))
    print(f"early end | {len(saved)} studies of {asked.trials} trials | ended early "
          f"{statistics.fmean(count > 0 for count in saved):.0%} | trials left out {statistics.fmean(saved):.1f} | "
          f"regret {statistics.fmean(cost):+.4f} +- {statistics.stdev(cost) / math.sqrt(len(cost)):.4f}")


if __name__ == "__main__":
    main()
