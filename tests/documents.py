"""The README and the pages of docs/: their blocks of code, their tables and their links."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *(ROOT / "docs" / f"{name}.md" for name in (
    "sweep-files", "terminal", "does-it-fit", "wandb", "kaggle", "colab", "many-machines", "reports", "models",
    "tuning-lab", "study-directory", "when-it-goes-wrong", "architecture", "limits", "benchmarks")),
         ROOT / "CONTRIBUTING.md")
"""In the order in which their commands are run, in one folder."""


def text(path):
    return path.read_text(encoding="utf-8")


def blocks(path):
    """Return (language, the rest of the opening line, content) of every block of code."""
    return re.findall(r"^```(\w*)(?: ([^\n]*))?\n(.*?)^```$", text(path), flags=re.DOTALL | re.MULTILINE)


def section(path, title):
    """Return what stands below a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text(path), flags=re.DOTALL | re.MULTILINE)
    return found


def names_of_rows(part):
    """Return the first cell of every row whose first cell is a name in backticks, in their order."""
    return re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE)


def anchors(path):
    """Return what a link can point at inside a page, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text(path), flags=re.DOTALL | re.MULTILINE),
                          flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
