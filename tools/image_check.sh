#!/usr/bin/env bash
# Builds the environment that Kaggle's or Colab's image is for this package, and runs this package in it.
#
#   tools/image_check.sh kaggle|colab|kaggle_october [--exact] [--only FILE...]
#
# Versions: environments/images/NAME.txt, on the Python that it names (IMAGE_PYTHON= gives another).
# torch: a build for CPUs of the same version where pip is offered one, else the index's own; with --exact always the
# latter, with every CUDA library it asks for, as the image has it: three gigabytes.
# Runs the test files (--only: these alone), then the dry run, plan, vary and report as a user types them. The tests
# include a launcher that trains under a root laid out like Kaggle's. Left out are tests of what never runs on an image:
# the kaggle program of the pushing side, which must be newer, the demo base's pretraining, a database, the benchmarks.
# The environment is kept in the user's cache and built anew when its file changes; remove the folder to start over.
set -euo pipefail
cd "$(dirname "$0")/.."

name="${1:-}"
packages="environments/images/$name.txt"
if [ -z "$name" ] || [ ! -f "$packages" ]; then
    echo "usage: tools/image_check.sh kaggle|colab|kaggle_october [--exact] [--only FILE...]" >&2
    exit 2
fi
shift
exact=""
if [ "${1:-}" = "--exact" ]; then exact="exact" && shift; fi
only=()
if [ "${1:-}" = "--only" ]; then shift && for file in "$@"; do only+=("${file%.py}.py"); done; fi

version="$(sed -n 's/^# Python //p' "$packages")"
python="${IMAGE_PYTHON:-}"
for candidate in "python$version" "$HOME/.pyenv/versions/$version".*/bin/python; do
    if [ -z "$python" ] && "$candidate" -c 'import venv' 2>/dev/null; then python="$candidate"; fi
done
if [ -z "$python" ]; then
    echo "image_check: Python $version, which $name's image has, is not installed" >&2
    exit 3
fi

key="$({ cat "$packages"; echo "$exact"; } | sha256sum | cut -c1-12)"
venv="${XDG_CACHE_HOME:-$HOME/.cache}/kaggle_runner/images/$name-$key"
if [ ! -f "$venv/complete" ]; then
    rm -rf "${venv%-*}"-*
    "$python" -m venv "$venv"
    torch="$(sed -n 's/^torch==//p' "$packages")"
    wanted="$packages"
    if [ -z "$exact" ] && "$venv/bin/pip" download -q --no-deps -d "$venv/torch" "torch==$torch+cpu" 2>/dev/null; then
        wanted="$venv/wanted.txt"
        sed "s/^torch==.*/torch==$torch+cpu/" "$packages" >"$wanted"
    fi
    mkdir -p "$venv/torch"
    "$venv/bin/pip" install -q --no-cache-dir --no-compile --find-links "$venv/torch" -r "$wanted"
    rm -r "$venv/torch"
    "$venv/bin/pip" check
    touch "$venv/complete"
    if [ -z "$exact" ] && [ "$wanted" = "$packages" ]; then  # there was no other torch than that of --exact
        ln -s "$(basename "$venv")" "${venv%-*}-$({ cat "$packages"; echo exact; } | sha256sum | cut -c1-12)"
    fi
fi
python="$venv/bin/python"
# The libraries' bytecode is written here at the latest: without it each process computes for ten seconds more to start.
PYTHONDONTWRITEBYTECODE="" "$python" -c 'import torch, transformers, peft, sys
print(f"image_check: Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}, "
      f"peft {peft.__version__}")'

left_out='test_(kernel|kernel_wandb|cli_kernel|kaggle_program|kaggle_server|secrets|benchmarks|pretrain|readme|docs)'
left_out+='|test_(architecture|environments|report_browser|on_gpu|shared)'
if [ "${#only[@]}" = 0 ]; then
    mapfile -t only < <(ls tests/test_*.py | grep -vE "/($left_out)\.py$")
fi
export PYTHONPATH="$PWD" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Warnings are no errors here: these versions' warnings are about each other, and nobody can update them on an image.
# The package itself is on the path and not installed, so its console script is not there.
"$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default \
    --deselect tests/test_cli.py::test_the_console_script_does_the_same "${only[@]}"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
run() {
    echo "+ python -m kaggle_runner $*"
    "$python" -m kaggle_runner "$@"
}
run dry-run sweeps/demo.yaml --count 2 --study studies/dry
run plan sweeps/lora_t4.yaml --gpu t4
cat >vary.yaml <<'YAML'
vary: learning_rate
values: [1.0e-3, 5.0e-3]
seeds: [0, 1, 2]
baseline:
  trainer: finetune
  samples: 64
  max_eval_samples: 16
  max_steps: 4
  eval_steps: 4
YAML
run vary vary.yaml --study studies/vary --cpu
run report studies/dry studies/vary
echo "image_check: $name passed"
