"""A llama.cpp's folder with a converter that writes a GGUF file of a merged model's tensor names.

Its unpleasant habits are the real one's: what it prints goes to stderr, good news too; a family that it does not know
ends it with a traceback whose last line says so; and a package that it lacks is a ModuleNotFoundError.
Asked by an environment variable it ends well and writes nothing.
"""

from pathlib import Path

CONVERTER = '''
import argparse, json, os, pathlib, struct, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--model-name")
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
arguments = parser.parse_args()
config = json.loads((arguments.model / "config.json").read_text())
print(f"INFO:hf-to-gguf:Loading model: {arguments.model.name}", file=sys.stderr)
if os.environ.get("STANDIN") == "lacks":
    import gguf_that_is_not_installed
if config["architectures"][0] == "GPT2LMHeadModel":
    raise NotImplementedError("Architecture 'GPT2LMHeadModel' not supported!")
with open(arguments.model / "model.safetensors", "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
if os.environ.get("STANDIN") != "nothing":
    names = json.dumps([name for name in header if name != "__metadata__"]).encode()
    arguments.outfile.write_bytes(b"GGUF" + struct.pack("<I", 3) + names)
print("INFO:hf-to-gguf:Model successfully exported", file=sys.stderr)
'''


def write_llama_cpp(folder: Path) -> Path:
    """Make the folder."""
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER)
    (folder / "requirements.txt").write_text("")
    return folder
