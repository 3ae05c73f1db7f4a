"""Check rules of layout and prose that ruff does not know. Run by ``nox -s lint``.

    python -m tests.check_style

Rules:

- The package's root has at most 17 folders and 7 files.
- A docstring opens with a verb or a noun, not with What, Whether, How, Where, When, Who or From.
- Nothing is named "told" or "said".
- A constructor has at most seven parameters; records (`RECORDS`) may have more.
- A call in a worker thread has a limiter of its own: applications may hold all threads of the
  default one while they wait for this library.
- Each module of the core is imported by ``tests/unit/<folder>/test_<module>.py``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cognigy_async"
MOST_FOLDERS, MOST_FILES, MOST_PARAMETERS = 17, 7, 7
CORE = {"_utils", "api", "audit", "auth", "client", "engine", "hooks", "models"}
CORE |= {"ratelimit", "transports"}
OPENING = re.compile(r"\s*(What|Whether|How|Where|When|Who|Whose|From)\b")
NAME = re.compile(r"(^|_)(told|said)(_|$)")
RECORDS = {
    # Arguments of the user, results and errors.
    "AsyncStateClient",
    "Emulator",
    "StateUpdate",
    "UpdateError",
    "UpdateResult",
}


def main() -> int:
    """Print each breach of a rule. Return 1 if there is one."""
    breaches = list(_layout())
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(ROOT)
        breaches += [f"{place}:{line}: {text}" for line, text in _module(tree)]
        if place.parts[1] in CORE and path.stem != "__init__":
            breaches += _untested(place)
    for breach in breaches:
        print(breach)
    return int(bool(breaches))


def _layout() -> Iterator[str]:
    entries = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    folders = [path.name for path in entries if path.is_dir()]
    files = [path.name for path in entries if path.is_file()]
    if len(folders) > MOST_FOLDERS:
        yield f"cognigy_async has {len(folders)} folders, at most {MOST_FOLDERS} are allowed"
    if len(files) > MOST_FILES:
        yield f"cognigy_async has {len(files)} files, at most {MOST_FILES} are allowed"


def _untested(place: Path) -> Iterator[str]:
    module = ".".join(place.with_suffix("").parts)
    package, _, name = module.rpartition(".")
    test = ROOT / "tests" / "unit" / place.parent.name / f"test_{name.lstrip('_')}.py"
    imports = rf"(from {re.escape(module)} import|import {re.escape(module)}\b"
    imports += rf"|from {re.escape(package)} import [^\n]*\b{name}\b)"
    if not test.exists() or not re.search(imports, test.read_text(encoding="utf-8")):
        yield f"{place}: {test.relative_to(ROOT)} is missing, or does not import it"


def _module(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        yield from _docstrings(node)
        yield from _names(node)
        yield from _threads(node)
        if isinstance(node, ast.ClassDef):
            yield from _constructor(node)


def _threads(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        call = ast.unparse(node.func)
        limited = "limiter" in {keyword.arg for keyword in node.keywords}
        if (call.endswith("to_thread.run_sync") and not limited) or call == "asyncio.to_thread":
            yield node.lineno, f"{call} needs a limiter of its own"
        if call.endswith(".run_in_executor") and ast.unparse(node.args[0]) == "None":
            yield node.lineno, f"{call} needs an executor of its own"


def _docstrings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield docstrings of modules, classes, functions and attributes that open badly."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    for index, child in enumerate(body):
        is_first = index == 0 and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        is_first |= index == 0 and isinstance(node, ast.AsyncFunctionDef)
        after = index > 0 and isinstance(body[index - 1], ast.Assign | ast.AnnAssign)
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            continue
        text = child.value.value
        if isinstance(text, str) and (is_first or after) and OPENING.match(text):
            yield child.lineno, f"docstring opens with {text.split()[0]!r}: open with a verb"


def _names(node: ast.AST) -> Iterator[tuple[int, str]]:
    name = None
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        name = node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = node.name
    elif isinstance(node, ast.arg):
        name = node.arg
    if name is not None and NAME.search(name.lower()):
        line = getattr(node, "lineno", 0)
        yield line, f"{name!r}: call it message, text, detail or error"


def _constructor(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    if node.name in RECORDS:
        return
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            arguments = child.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
            if count > MOST_PARAMETERS:
                yield child.lineno, f"{node.name} takes {count} parameters, not {MOST_PARAMETERS}"


if __name__ == "__main__":
    sys.exit(main())
