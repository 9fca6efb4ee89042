"""Every message of an error has a row in docs/when-it-goes-wrong.md, and every row is a message of the code.

Messages are read from the source: the words that are fixed, with a blank for each part that a run fills in.
"""

import ast
import re

from kaggle_runner import errors
from tests.documents import ROOT, names_of_rows, text

PACKAGE = ROOT / "kaggle_runner"
SOURCES = {path: ast.parse(text(path)) for path in sorted(PACKAGE.rglob("*.py"))}
KINDS = {name for name, value in vars(errors).items()
         if isinstance(value, type) and issubclass(value, errors.KaggleRunnerError)}
PROBLEMS = ("found.problem", "found.warn", "problems.append")
"""Calls that add one problem of a file, or of this machine."""
BLANK = "\0"
"""Stands for what a message only has when it is raised."""


def template(node, constants=None):
    """Return the text of an expression, with a blank for every part that is not known before it runs."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            return "".join(template(part, constants) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left, constants) + template(right, constants)
        case ast.Name(id=name) if constants and name in constants:
            return constants[name]
    return BLANK


def constants_of(tree):
    return {target.id: template(node.value) for node in tree.body if isinstance(node, ast.Assign)
            for target in node.targets if isinstance(target, ast.Name)}


def messages():
    """Yield (where, template) of each error that is raised and each problem that is added, if it has words."""
    for path, tree in SOURCES.items():
        constants = constants_of(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if ast.unparse(node.func) in (*KINDS, *PROBLEMS):
                found = template(node.args[-1], constants)
                if re.search(r"[a-z' ]{8}", found):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", found


def rows():
    page = text(ROOT / "docs" / "when-it-goes-wrong.md")
    return names_of_rows(page[page.index("## The command line"):page.index("## The kinds of errors")])


def is_in(pieces, message):
    """Say whether the pieces stand in a message one behind the other, with anything between them."""
    place = 0
    for piece in pieces:
        start = message.find(piece, place)
        if start < 0:
            return False
        place = start + len(piece)
    return True


ROWS = {row: row.split("…") for row in rows()}


def test_every_message_has_a_row():
    lacking = [f"{where}\n| `{message.strip().replace(BLANK, '…')}` | what it means. | What to do. |"
               for where, message in messages() if not any(is_in(pieces, message) for pieces in ROWS.values())]
    assert not lacking, "add rows to docs/when-it-goes-wrong.md for:\n" + "\n".join(lacking)


def test_every_row_is_a_message():
    said = {template(node) for tree in SOURCES.values() for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant)}
    stale = [row for row, pieces in ROWS.items() if not any(is_in(pieces, text) for text in said)]
    assert not stale, "nothing in kaggle_runner says these any more; remove or mend their rows"


def test_hardly_a_row_is_so_vague_that_it_would_stand_for_a_new_message():
    vague = [row for row in ROWS if len(re.findall(r"[a-z']+", row)) < 2]
    assert vague == ["not YAML: …", "… takes …; …", "interrupted"]
