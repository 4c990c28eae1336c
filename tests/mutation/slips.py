"""The slips that can be made in the package: cosmic-ray's operators, and one that drops a call."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

PARTS = ("pipeline", "journal", "recovery", "runs", "backends")
EQUIVALENT = Path(__file__).parent / "equivalent.txt"
_PLAIN = (
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer",
    "ZeroIterationForLoop",
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Add", "ReplaceBinaryOperator_BitAnd_BitXor",
    "ReplaceUnaryOperator_Delete_Not",
)  # fmt: skip
# Turned round, or the limit moved by one; `is` as `<` would be no slip but nonsense.
_COMPARISONS = (
    "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
    "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "GtE_Lt", "Gt_LtE", "LtE_Gt",
)  # fmt: skip
_FIGURE = re.compile(r"_?[A-Z][A-Z_, ]+(: \w+)? = ")

_WAIT = re.compile(r"\w+_s: float = (?!-|0\.0|1\.0)")  # 0 and none of it differ


class DropCall(Operator):
    """A call whose result nobody uses is not made: no sync, no close, no count."""

    def mutation_positions(self, node):
        is_call = node.type in ("power", "atom_expr") and node.children[-1].type == "trailer"
        if is_call and node.parent.type == "simple_stmt" and node.children[-1].children[0] == "(":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        made = parso.parse("pass").children[0]
        made.prefix = node.get_first_leaf().prefix
        return made

    @classmethod
    def examples(cls):
        return ()


@dataclass(frozen=True)
class Slip:
    module: str  # its path in the package
    operator: str
    number: int  # of the operator's places in the module
    line: int
    column: int = 0


@dataclass(frozen=True)
class Made:
    """A slip as it looks in the code."""

    slip: Slip
    code: str
    diff: list[str]

    @property
    def change(self) -> str:
        return " -> ".join(line[1:].strip() for line in self.diff if line[:1] in "+-")

    @property
    def is_of_a_figure(self) -> bool:
        """A named figure of a module that is one more or less, or a wait that a caller may leave
        out: a limit, a size. What is promised of it is a rule, and a test that pins the figure
        tests nothing."""
        changed = [line[1:] for line in self.diff if line[:1] in "+-"]
        return self.slip.operator == "NumberReplacer" and (
            all(_FIGURE.match(line) for line in changed)
            or all(_WAIT.search(line) for line in changed)
        )

    @property
    def is_seen(self) -> bool:
        """False for what only a type checker, or a reader of a message, would see."""
        lines = [line[1:].strip() for line in self.diff if line[:1] in "+-"]
        blind = ("_log.", "import ", "from ", '"', 'f"')
        return not all(line.startswith(blind) for line in lines)


def operators() -> dict[str, Operator]:
    made = {"DropCall": DropCall()}
    for name in operator_names():
        short = name.rpartition("/")[2]
        if short.removeprefix("ReplaceComparisonOperator_") in (*_PLAIN, *_COMPARISONS):
            made[short] = get_operator(name)()
    return made


def all_slips(package: Path, parts=PARTS) -> list[Slip]:
    """In an order that depends on the code alone."""
    made = operators()
    slips = []
    named = [package / part for part in parts]
    paths = {path for part in named for path in (part.rglob("*.py") if part.is_dir() else [part])}
    for path in sorted(paths):
        module = str(path.relative_to(package))
        nodes = list(ast_nodes(parso.parse(path.read_text())))
        for name, operator in made.items():
            places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            slips += [Slip(module, name, number, *at) for number, at in enumerate(places)]
    return slips


def make(slip: Slip, package: Path, operator: Operator) -> Made | None:
    """None where there is nothing that a test could notice."""
    code = (package / slip.module).read_text()
    mutated = mutate_code(code, operator, slip.number)
    lines = difflib.unified_diff(code.splitlines(), (mutated or code).splitlines(), "", "", n=1,
                                 lineterm="")  # fmt: skip
    made = Made(slip, mutated, list(lines)[2:])
    is_known = f"{slip.module}: {made.change}" in equivalents()
    is_tried = made.diff and made.is_seen and not made.is_of_a_figure and not is_known
    return made if is_tried and not is_in_vain(slip, code) else None


def is_in_vain(slip: Slip, code: str) -> bool:
    """Whether it is where nothing depends on it here: in the words of a log line or of an error (a
    whole line that is not logged is tried, but for the levels that nobody is shown), in what makes
    a dataclass frozen, in what another system or a type checker alone runs."""
    around = list(_around(_parsed(code), slip.line, slip.column))
    is_of_an_error = any(isinstance(node, ast.Raise) for node, _ in around)
    is_in_words = any(isinstance(node, ast.JoinedStr) for node, _ in around)
    return (is_of_an_error and is_in_words) or any(
        _is_logged(node, slip) or _is_frozen(node) or _is_elsewhere(node, inner)
        for node, inner in around
    )


@functools.lru_cache(maxsize=4)
def _parsed(code: str) -> ast.Module:
    return ast.parse(code)


def _around(node: ast.AST, line: int, column: int) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The nodes that have the place, from the outermost on, each with the next one inside it."""
    for child in ast.iter_child_nodes(node):
        if not hasattr(child, "lineno"):
            yield from _around(child, line, column)
            continue
        decorators = getattr(child, "decorator_list", [])
        first = min((each.lineno, each.col_offset) for each in (child, *decorators))
        if first <= (line, column) < (child.end_lineno, child.end_col_offset):
            yield node, child
            yield from _around(child, line, column)
            return


def _is_logged(node: ast.AST, slip: Slip) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = ast.unparse(node.value.func)
    is_shown = called not in ("_log.debug", "_log.info")  # unless the user asks for more
    return called.startswith("_log.") and not (is_shown and slip.operator == "DropCall")


def _is_frozen(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "dataclass"


_ELSEWHERE = ("os.name == 'nt'", "TYPE_CHECKING", "sys.platform == 'win32'")


def _is_elsewhere(node: ast.AST, inner: ast.AST) -> bool:
    """In the body of `if os.name == "nt"` or of `except ImportError`, or the 0 in
    `getattr(os, "O_BINARY", 0)`."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in _ELSEWHERE and inner in node.body
    if isinstance(node, ast.ExceptHandler):
        return node.type is not None and ast.unparse(node.type) == "ImportError"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
        return len(node.args) == 3 and inner is node.args[2] and ast.unparse(node.args[0]) == "os"
    return False


def equivalents() -> set[str]:
    lines = EQUIVALENT.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}
