"""Make Python source smaller for a launcher: nobody reads it there, and what it does and its lines stay the same."""

import ast
import builtins
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from string import ascii_lowercase, digits

_OWN = ("property", "functools.cached_property", "classmethod", "staticmethod")
"""Decorators of methods that hand them to nobody."""
_SHORT = (*ascii_lowercase, *map("".join, product(ascii_lowercase, ascii_lowercase + digits)))
"""Names of variables, the shortest first."""


@functools.cache
def shrunk(source: bytes) -> bytes:
    """Make one file of Python source as small as it can be made without a look at the others."""
    return without_spaces(without_imports(without_words(without_types(source))))


def without_words(source: bytes) -> bytes:
    """Drop every string that stands alone in Python source, and the comments; all else stays where it is.

    Where nothing else stands there or in the line, an empty string does.
    """
    lines = source.split(b"\n")
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start[0] - 1, token.start[1]
            lines[line] = lines[line].decode()[:column].rstrip().encode()
    for parent in _statements(ast.parse(source)):
        body = getattr(parent, "body", ())
        alone = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                 and isinstance(node.value.value, str)]
        for node in alone:
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            before, after = lines[first][:node.col_offset], lines[last][node.end_col_offset:]
            is_all = len(alone) == len(body) or before.strip() or after.strip()
            lines[first] = before + b'""' + after if is_all else b""
            lines[first + 1:last + 1] = [b""] * (last - first)
    return b"\n".join(lines)


def without_uncalled(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Drop the functions and methods whose names stand nowhere else in the Python files; all else stays where it is.

    What only those call or import goes with them. A name in a text counts; what is decorated, and what a class of
    others may call of one that is made from it, is somebody's.
    """
    files = dict(files)
    while True:
        code = {name: content for name, content in files.items() if name.endswith(".py")}
        times = Counter(word for content in code.values() for word in re.findall(rb"\w+", content))
        for name, content in code.items():
            alone = {word.decode() for word in re.findall(rb"(?m)^ *def (\w+)", content) if times[word] == 1}
            lines = content.split(b"\n")
            for node in _functions(ast.parse(content)) if alone else ():
                if node.name in alone and not node.name.startswith(("__", "_repr")) and node.end_lineno:
                    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                    lines[first - 1:node.end_lineno] = [b""] * (node.end_lineno - first + 1)
                    files[name] = b"\n".join(lines)
        changed = [name for name, content in code.items() if files[name] is not content]
        if not changed:
            return files
        files |= {name: without_imports(files[name]) for name in changed}


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module, and of its own classes the methods without which something is left of them."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            yield node
        elif isinstance(node, ast.ClassDef) and not node.bases and not isinstance(node.body[0], ast.FunctionDef):
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef) and all(
                ast.unparse(decorator) in _OWN for decorator in inner.decorator_list))


def without_types(source: bytes) -> bytes:
    """Cut the types of parameters, results and variables out of Python source.

    Those stay that are read: of classes by `dataclass`, and `constexpr` by Triton.
    """
    lines, cuts, tree = source.split(b"\n"), [], ast.parse(source)
    of_classes: set[int] = set()
    for node in _statements(tree):
        if isinstance(node, ast.ClassDef):
            of_classes.update(map(id, node.body))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (part for part in ast.walk(node.args) if isinstance(part, ast.arg)):
                if part.annotation and getattr(part.annotation, "attr", "") != "constexpr":
                    cuts.append((part.lineno - 1, part.col_offset + len(part.arg.encode()), part.annotation))
            if node.returns:
                line = node.returns.lineno - 1
                arrow = lines[line].rfind(b"->", 0, node.returns.col_offset)
                cuts.append((line, len(lines[line][:arrow].rstrip()), node.returns))
        elif isinstance(node, ast.AnnAssign) and node.value and id(node) not in of_classes:
            cuts.append((node.lineno - 1, node.target.end_col_offset or 0, node.annotation))
    for line, column, annotation in sorted(cuts, key=lambda cut: cut[:2], reverse=True):
        last = (annotation.end_lineno or annotation.lineno) - 1
        lines[line] = lines[line][:column] + lines[last][annotation.end_col_offset:]
        lines[line + 1:last + 1] = [b""] * (last - line)
    return b"\n".join(lines)


def without_imports(source: bytes) -> bytes:
    """Drop what Python source imports for its types alone, where `without_types` has left nothing that reads it."""
    lines, tree = source.split(b"\n"), ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse:
            lines[node.lineno - 1:node.end_lineno] = [b""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            text = b"\n".join(lines)
            kept = [ast.unparse(one) for one in node.names
                    if len(re.findall(rf"\b{one.asname or one.name}\b".encode(), text)) > 1]
            lines[node.lineno - 1:node.end_lineno] = [b""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
            if kept:
                lines[node.lineno - 1] = f"from {node.module} import {', '.join(kept)}".encode()
    return b"\n".join(lines)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk the statements of Python source, each before those inside it, and none of their expressions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo.extend(getattr(node, name, ()))


def without_spaces(source: bytes) -> bytes:
    """Indent Python source by one space a level, and drop all other spaces that divide nothing.

    Strings stay as they are.
    """
    lines, cuts = source.decode().split("\n"), []
    end, last, begins, depth = (1, 0), "", True, 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        kind = tokenize.tok_name[token.type]
        depth += kind.endswith("STRING_START") - kind.endswith("STRING_END")  # of an f-string, from Python 3.12 on
        if kind in ("ENCODING", "NEWLINE"):
            begins = True
        elif kind not in ("NL", "INDENT", "DEDENT", "ENDMARKER"):
            (row, column), first = token.start, token.string[:1]
            if kind.endswith("STRING_END") or depth > kind.endswith("STRING_START"):
                pass  # a space inside of one is text
            elif begins:
                cuts.append((row, column // 4, column))
            elif row > end[0]:
                cuts.append((row, 0, column))
            elif not _is_divided(last, first):
                cuts.append((row, end[1], column))
            end, last, begins = token.end, token.string[-1:], begins and kind == "COMMENT"
    for row, first_column, column in reversed(cuts):
        lines[row - 1] = lines[row - 1][:first_column] + lines[row - 1][column:]
    return "\n".join(lines).encode()


def _is_divided(last: str, first: str) -> bool:
    """Say whether a space divides what ends with one character from what begins with the other."""
    if last in "\"'":
        return first in "\"'"
    return (last.isalnum() or last == "_") and (first.isalnum() or first in "_\"'.")


@functools.cache
def with_short_names(source: bytes) -> bytes:
    """Give the variables of functions, and a module's private functions, names of a letter or two; all else stays.

    What somebody may ask for by its name keeps it: parameters, other functions, classes, imports, and what a module or
    a class binds. So does what a formatted string holds, whose place in it Python knows from 3.12 on.
    """
    tree = ast.parse(source)
    lines, outside = source.split(b"\n"), list(_outside_functions(tree))
    taken = {*dir(builtins), *(name for node in outside for name in _bound(node))}
    renamed: list[tuple[ast.Name | ast.FunctionDef, str]] = list(_private_renamed(tree, source))
    for function in (node for node in outside if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        inside = list(ast.walk(function))
        kept = {name for node in inside if not isinstance(node, ast.Name) for name in _bound(node)}
        for node in inside:
            if isinstance(node, ast.JoinedStr | ast.ClassDef):
                kept.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
        places = sorted((node for node in inside if isinstance(node, ast.Name)), key=_place)
        used = {place.id for place in places}
        own = dict.fromkeys(name for place in places for name in _bound(place) if name not in taken | kept)
        free = [name for name in _SHORT if name not in used | kept]
        names = {name: short for name, short in zip(own, free, strict=False) if len(short) < len(name)}
        if not used & {"eval", "exec", "locals", "vars"}:
            renamed += [(place, names[place.id]) for place in places if place.id in names]
    for place, name in sorted(renamed, key=lambda one: _place(one[0]), reverse=True):
        line = lines[place.lineno - 1]
        column, old = (place.col_offset, place.id) if isinstance(place, ast.Name) else (
            place.col_offset + len("def "), place.name)
        lines[place.lineno - 1] = line[:column] + name.encode() + line[column + len(old.encode()):]
    return b"\n".join(lines)


def _private_renamed(tree: ast.Module, source: bytes) -> Iterator[tuple[ast.Name | ast.FunctionDef, str]]:
    """Yield the places where a module names its private functions, and their short names.

    One keeps its name that a text holds, or that something else in the module has, too.
    """
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list
                 and node.name.startswith("_") and not node.name.startswith("__")]
    places: dict[str, list[ast.Name | ast.FunctionDef]] = {node.name: [node] for node in functions}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in places:
            places[node.id].append(node)
    in_text = [part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)]
    in_text_names = {part.id for part in in_text if isinstance(part, ast.Name)}
    words = Counter(word.decode() for word in re.findall(rb"\w+", source))
    free = (name for name in map("_".__add__, _SHORT) if name not in words)
    for name, found in places.items():
        if words[name] == len(found) and name not in in_text_names:
            short = next(free)
            yield from ((place, short) for place in found)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk Python source, the functions of modules and classes included, and nothing inside of those."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend(ast.iter_child_nodes(node))


def _place(node: ast.Name | ast.FunctionDef) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that one piece of Python source binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name.split(".")[0]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
