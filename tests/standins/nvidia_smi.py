"""An `nvidia-smi` for tests: a real program in a directory to put on PATH.

It keeps the real one's unpleasant habits: complaints go to stdout, with an exit status other than 0 or even with 0;
an unknown field fails the whole query; a value it does not know is `[N/A]`; a hung driver means that it never ends,
and that its children keep the pipe open; a damaged infoROM is a warning after a good answer, with exit status 14.
"""

from pathlib import Path

T4_X2 = """\
0, Tesla T4, 15360, 7.5, GPU-11111111-aaaa-0000-0000-000000000000
1, Tesla T4, 15360, 7.5, GPU-22222222-bbbb-0000-0000-000000000000
"""
P100 = "0, Tesla P100-PCIE-16GB, 16384, 6.0, GPU-33333333-cccc-0000-0000-000000000000\n"
UNEQUAL = """\
0, NVIDIA L4, 23034, 8.9, GPU-44444444-dddd-0000-0000-000000000000
1, Tesla T4, 15360, 7.5, GPU-11111111-aaaa-0000-0000-000000000000
"""
OLD = """\
case "$1" in *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; echo; exit 2;; esac
"""
NO_DRIVER = """\
echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA"
echo "driver is installed and running."; echo; exit 9
"""
HANGING = "sleep 600 & sleep 600\n"


def answering(lines: str) -> str:
    """Return a script that answers the one query this package makes, and refuses any other."""
    return (f"[ \"$1\" = --query-gpu=index,name,memory.total,compute_cap,uuid ] || exit 2\n"
            f"[ \"$2\" = --format=csv,noheader,nounits ] || exit 2\ncat <<'END'\n{lines}END\n")


def path_with(directory: Path, script: str) -> str:
    """Write the program into a directory and return a PATH that begins with it."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return f"{directory}:/usr/bin:/bin"
