# The code file of kernel-metadata.json as the repository has it: without package and sweep. To put both into it:
#
#     python -m kaggle_runner kernel prepare SWEEP_ID && kaggle kernels push -p .
import json
import os
import sys

reason = ("this kernel has no sweep to run; on your own machine, in the repository, run: "
          "python -m kaggle_runner kernel prepare SWEEP_ID && kaggle kernels push -p .")
print(f"error: {reason}", file=sys.stderr)
if "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
    sys.exit(2)
working = os.path.join(os.environ.get("KAGGLE_RUNNER_ROOT", "/"), "kaggle", "working")
with open(os.path.join(working, "result.json"), "w") as file:
    json.dump({"verdict": "failed", "exit_status": 2, "reason": reason}, file)
