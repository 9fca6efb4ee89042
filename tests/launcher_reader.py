"""Read a launcher back: what it runs, and the package inside it. Compares better than text across Pythons."""

import ast
import base64
import bz2
import io
import json

from kaggle_runner.kaggle.launcher import Launch


def read_launcher(script: str) -> tuple[Launch, dict[str, bytes]]:
    """Return what a launcher runs, and name -> content of its package."""
    values = {node.targets[0].id: node.value for node in ast.parse(script).body
              if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    read = {name: ast.literal_eval(values[f"KAGGLE_RUNNER_{name}"])
            for name in ("ARGUMENTS", "SETTINGS", "FILES", "PACKAGE")}
    archive = io.BytesIO(bz2.decompress(base64.b85decode(read["PACKAGE"])))
    package = {name: archive.read(size) for name, size in json.loads(archive.readline()).items()}
    return Launch(arguments=tuple(read["ARGUMENTS"]), settings=read["SETTINGS"], files=read["FILES"]), package
