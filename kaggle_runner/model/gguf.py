"""A merged model as one GGUF file, made by the converter of a llama.cpp that a person has."""

import re
import subprocess
import sys
from pathlib import Path

from kaggle_runner.errors import HostError

CONVERTER = "convert_hf_to_gguf.py"
GET = "git clone --depth 1 https://github.com/ggml-org/llama.cpp && pip install sentencepiece"
"""Its `requirements.txt` would put another torch and transformers in the place of those that training uses."""
MAGIC = b"GGUF"


def find_converter(llama_cpp: Path | None, why: str) -> Path:
    """Return llama.cpp's converter; `why` says what it is needed for.

    Raises:
        HostError: none is named, or the folder has none.
    """
    if llama_cpp is None:
        raise HostError(f"{why} needs the converter of llama.cpp; run: {GET}, and name its folder with --llama-cpp "
                        f"llama.cpp")
    converter = llama_cpp / CONVERTER
    if not converter.is_file():
        raise HostError(f"--llama-cpp {llama_cpp} has no {CONVERTER}; give the folder of a llama.cpp, or run: {GET}")
    return converter


def convert(converter: Path, merged: Path, out: Path, name: str) -> None:
    """Convert a merged model's folder into a GGUF file of 16-bit floats, which calls the model by a name.

    Raises:
        HostError: the converter fails, with its last words; or what it wrote is no GGUF file.
    """
    done = subprocess.run([sys.executable, str(converter), str(merged), "--outfile", str(out), "--outtype", "f16",
                           f"--model-name={name}"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = words[-1] if words else f"exit status {done.returncode}"
    if done.returncode:
        lacks = re.search(r"ModuleNotFoundError: No module named '(\w+)", said)
        way_out = f"run: pip install {lacks[1]}" if lacks else (
            "where a newer llama.cpp does not know it either, --to merged takes the model home without one")
        raise HostError(f"{converter} cannot convert the merged model: {said}; {way_out}")
    try:
        with open(out, "rb") as file:
            found = file.read(len(MAGIC))
    except OSError:
        found = b""
    if found != MAGIC:
        raise HostError(f"{converter} ended well and wrote no GGUF file ({said}); update that llama.cpp")
