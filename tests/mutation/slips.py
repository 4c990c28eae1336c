"""The slips that can be made in the package: cosmic-ray's operators, and one that drops a call."""

from __future__ import annotations

import difflib
import re
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
_FIGURE = re.compile(r"_?[A-Z][A-Z_]+(: \w+)? = ")


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
        """A named figure of a module that is one more or less: a wait, a limit, a size. What is
        promised of it is a rule, and a test that pins the figure tests nothing."""
        return self.slip.operator == "NumberReplacer" and all(
            _FIGURE.match(line[1:]) for line in self.diff if line[:1] in "+-"
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
            slips += [Slip(module, name, number, at[0]) for number, at in enumerate(places)]
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
    return made if is_tried else None


def equivalents() -> set[str]:
    lines = EQUIVALENT.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}
