"""Puts the scalars of a compiled graph together: their values in one tensor, one operator for all.

An operator's call costs some microseconds, a number more in a tensor that the graph's own kernels
write next to none. Done when the compiler has the whole graph, by the hook that torch's optimizers
use. Where a torch has none the operators stay as they are, and do the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

_DEVICES = ("cpu", "cuda")  # those that have float64, and that the drainer knows


def merge_in_this_graph() -> None:
    """Has the graph that is being made right now merged when it is whole."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        graph: Any = InstructionTranslator.current_tx().output
        if merge_scalars not in graph.register_finalizer_fns:
            graph.add_graph_finalizer(merge_scalars)
    except AttributeError:  # none is being made: it is run by hand, or by another tracer
        pass


def merge_scalars(module: torch.fx.GraphModule) -> None:
    """Each row of scalars with no other logging call between becomes one call, in the last's place.
    What changes a tensor between them does not change what was logged: each is copied in place."""
    rows = [row for row in _rows(module.graph) if len(row) > 1]
    for row in rows:
        _merge(module.graph, row)
    if rows:
        module.recompile()


def _rows(graph: torch.fx.Graph) -> Iterator[list[torch.fx.Node]]:
    row: list[torch.fx.Node] = []
    for node in graph.nodes:
        if _is_scalar(node):
            if row and _device(node) != _device(row[0]):
                yield row
                row = []
            row.append(node)
        elif _may_log(node):
            yield row
            row = []
        if "_functorch" in str(getattr(node.target, "__module__", "")):
            return  # what is within vmap or grad is of another level than what is without
    yield row


def _is_scalar(node: torch.fx.Node) -> bool:
    return node.target is torch.ops.tracelet.scalar and _device(node) in _DEVICES


def _may_log(node: torch.fx.Node) -> bool:
    is_ours = str(node.target).startswith("tracelet.")
    return is_ours or isinstance(node.target, torch._ops.HigherOrderOperator)


def _device(node: torch.fx.Node) -> str | None:
    """Where the value of a scalar is; None for one that is no plain tensor."""
    value = _value_of(node)
    example = value.meta.get("example_value") if isinstance(value, torch.fx.Node) else None
    if not isinstance(example, torch._subclasses.FakeTensor):
        return None
    return str(example.device.type)


def _value_of(node: torch.fx.Node) -> Any:
    return node.args[3]


def _merge(graph: torch.fx.Graph, row: list[torch.fx.Node]) -> None:
    targets: list[Any] = []
    steps: list[Any] = []
    values: list[Any] = []
    plan: list[Any] = []
    for node in row:
        _, target, name, value, step = node.args
        with graph.inserting_before(node):
            copy = graph.call_method("to", (value, torch.float64), {"copy": True})
            values.append(graph.call_method("reshape", (copy, ())))
        at = None if step is None else _index(steps, step)
        plan.append((_index(targets, target), name, at))
    last = row[-1]
    with graph.inserting_before(last):
        stacked = graph.call_function(torch.stack, (values,))
        arguments = (last.args[0], targets, json.dumps(plan), stacked, steps)
        merged = graph.call_function(torch.ops.tracelet.scalars, arguments)
        merged.meta.update(last.meta)
    for node in row:
        graph.erase_node(node)


def _index(items: list[Any], item: Any) -> int:
    for index, each in enumerate(items):
        if each is item or (isinstance(item, int) and type(each) is int and each == item):
            return index
    items.append(item)
    return len(items) - 1
