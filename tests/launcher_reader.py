"""Read a launcher back: what it runs, and the package inside it. Compares better than text across Pythons."""

import ast
import bz2
import io
import json

from kaggle_runner.kaggle.launcher import CHUNK, CHUNK_BYTES, DIGITS, Launch


def read_launcher(script: str) -> tuple[Launch, dict[str, bytes]]:
    """Return what a launcher runs, and name -> content of its package."""
    values = {node.targets[0].id: node.value for node in ast.parse(script).body
              if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    read = {name: ast.literal_eval(values[f"KAGGLE_RUNNER_{name}"])
            for name in ("ARGUMENTS", "SETTINGS", "FILES", "PACKAGE")}
    packed, text = b"", read["PACKAGE"]
    for start in range(0, len(text), CHUNK):
        number, line = 0, text[start:start + CHUNK]
        for digit in line:
            number = number * len(DIGITS) + DIGITS.index(digit)
        packed += number.to_bytes(len(line) * CHUNK_BYTES // CHUNK, "big")
    words, _, text = bz2.decompress(packed).partition(b"\n")
    for word in words.split():
        text = text.replace(word[:1], word[1:])
    archive = io.BytesIO(text)
    package = {name: archive.read(size) for name, size in json.loads(archive.readline()).items()}
    return Launch(arguments=tuple(read["ARGUMENTS"]), settings=read["SETTINGS"], files=read["FILES"]), package
