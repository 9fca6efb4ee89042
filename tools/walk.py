"""Say which rooms and modules a command walks through: `python tools/walk.py dry-run sweeps/demo.yaml --count 1`.

A module is counted when one of its functions runs in the process of the command; what runs in a worker is not counted.
"""

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import kaggle_runner
from kaggle_runner.cli import main

PACKAGE = f"{Path(kaggle_runner.__file__).parent}/"


def walk(arguments: list[str]) -> list[str]:
    """Run a command and return the modules it walked through, as paths in the package."""
    visited = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(PACKAGE):
            visited.add(code.co_filename.removeprefix(PACKAGE))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        main(arguments)
    except SystemExit:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(path for path in visited if Path(path).name != "__init__.py")


if __name__ == "__main__":
    modules = walk(sys.argv[1:])
    rooms = sorted({path.split("/")[0] for path in modules if "/" in path})
    print(f"{len(rooms)} rooms ({', '.join(rooms)}), {len(modules)} modules:", *modules, sep="\n  ", file=sys.stderr)
