"""Measure the choice of a winner: what confirming gains, whether what is said of it is true, who shares first place.

    OMP_NUM_THREADS=1 python benchmarks/choice.py [--seeds 20] [--first-seed 0] [--trials 15]

Made studies on the problems of benchmarks/search.py, with their noise: the search runs its trials, the best three get
two more seeds each. Prints the regret of the choice before and after, how far the stated mean and the plain mean of the
winner lie from its true loss in units of the noise, and how often `shares first place` leaves out the true best of the
trials that were run. The last is with the noise that the confirmation measured.
"""

import argparse
import math
import random
import statistics
from collections.abc import Sequence

from search import scale_of
from search_problems import Problem, measured, problems

from kaggle_runner.report.analysis.first_place import first_place
from kaggle_runner.report.analysis.gap import Measure
from kaggle_runner.report.analysis.importance import Effects
from kaggle_runner.run.points.propose import Observation, Told, propose
from kaggle_runner.study.noise import Candidate, find_configurations, find_repeats, noise_of_repeats, stated_mean
from kaggle_runner.study.trial import Trial

TOP, SEEDS = 3, 2
NOTHING = Effects()
"""Effects of which nothing is known, so that only the measured noise counts."""


def main() -> None:
    """Make the studies and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=15)
    asked = parser.parse_args()
    before, after, stated, plain, left_out = [], [], [], [], []
    for problem in problems():
        least, middling = scale_of(problem.name)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            noise, past = random.Random(f"{problem.name} {seed}"), []
            for number in range(asked.trials):
                proposal = propose(problem.spec, seed=seed, number=number, past=past, defaults=problem.defaults)
                if proposal is None:
                    break
                past.append(Observation(params=proposal.params, told=Told.VALUE,
                                        value=measured(problem, proposal.params, noise)))
            best = sorted(past, key=lambda observation: observation.value)[:TOP]
            candidates = [Candidate(trial=Trial(id=str(past.index(observation)), number=0, params=observation.params),
                                    first=observation.value, further=tuple(
                                        measured(problem, observation.params, noise) for _ in range(SEEDS)))
                          for observation in best]
            winner = min(candidates, key=lambda one: one.mean)
            truth = problem.loss(winner.trial.params)
            before.append((problem.loss(best[0].params) - least) / (middling - least))
            after.append((truth - least) / (middling - least))
            stated.append((stated_mean(candidates, 1.0) - truth) / problem.noise)
            plain.append((winner.mean - truth) / problem.noise)
            left_out.append(_leaves_out_best(problem, past, candidates))
    for name, values in (("regret of the best trial", before), ("regret of the confirmed winner", after),
                         ("stated mean - truth, in noises", stated), ("plain mean - truth, in noises", plain),
                         ("first place leaves out the best", left_out)):
        error = statistics.stdev(values) / math.sqrt(len(values))
        print(f"choice | {len(values)} studies of {asked.trials} trials | {name:32} {statistics.fmean(values):+.3f} "
              f"+- {error:.3f}")


def _leaves_out_best(problem: Problem, past: Sequence[Observation], candidates: Sequence[Candidate]) -> float:
    trials = [(str(number), observation.params, observation.value) for number, observation in enumerate(past)]
    repeats = find_repeats([(f"{one.trial.id} {seed}", {**one.trial.params, "seed": seed}, value)
                            for one in candidates for seed, value in enumerate(one.further)])
    further = {one.trial.id: {f"{one.trial.id} {seed}": value for seed, value in enumerate(one.further)}
               for one in candidates}
    found = sorted(find_configurations(trials, further), key=lambda one: (not one.confirmed, one.mean))
    place = first_place(found, "minimize", noise_of_repeats(repeats), NOTHING, lambda near: NOTHING,
                        [Measure(values=tuple(one.mean for one in found))])
    truest = min(trials, key=lambda trial: problem.loss(trial[1]))[0]
    return float(truest not in place.trial_ids)


if __name__ == "__main__":
    main()
