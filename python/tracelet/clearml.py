"""ClearML's own tools, told the names that tracelet gives things.

Import it by its name (`from tracelet.clearml import ...`); it needs the package clearml.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet import environment
from tracelet.backends.clearml.names import safe_name, split_tag
from tracelet.backends.clearml.sdk import load_task_class
from tracelet.backends.clearml.start import go_online

__all__ = ["hyperparameter_optimizer"]

_SIGNS = ("min", "max", "min_global", "max_global")


def hyperparameter_optimizer(
    base_task_id: str,
    parameters: Mapping[str, Any],
    objective: str,
    sign: str = "min",
    **arguments: Any,
) -> Any:
    """A `clearml.automation.HyperParameterOptimizer` over the task `base_task_id`.

    `parameters` maps names to what they may be: a list of values, or one of ClearML's ranges
    (`UniformParameterRange("")` and so on, whose own name is replaced). A name is that of
    `Experiment.log_params` or of a command-line argument; it is looked up in the base task, and
    "section/name" is taken as it is. `objective` is the tag as it is logged, "train/loss"; `sign`
    says whether its last value should be small or large ("min", "max"), or its best one
    ("min_global", "max_global").

    `arguments` go to HyperParameterOptimizer; without `optimizer_class` lists of values are
    searched through one by one (GridSearch). Start it with `start()`, or with `start_locally()`
    where no agent runs. Raises ValueError naming a parameter or sign that is not there.
    """
    task_class = load_task_class()
    if not environment.clearml_offline():
        go_online(task_class)
    from clearml.automation import GridSearch, HyperParameterOptimizer

    if sign not in _SIGNS:
        raise ValueError(f"sign must be one of {', '.join(_SIGNS)}, not {sign!r}")
    if not isinstance(parameters, Mapping) or not parameters:
        raise ValueError("parameters must be a mapping of names to lists of values, not empty")
    known = list(task_class.get_task(task_id=base_task_id).get_parameters() or {})
    metric, variant = split_tag(objective)
    return HyperParameterOptimizer(
        base_task_id=base_task_id,
        hyper_parameters=[
            _parameter(_full_name(name, known), values) for name, values in parameters.items()
        ],
        objective_metric_title=safe_name(metric),
        objective_metric_series=safe_name(variant),
        objective_metric_sign=sign,
        **{"optimizer_class": GridSearch, **arguments},
    )


def _full_name(name: str, known: Sequence[str]) -> str:
    """The parameter's name with its section, as the base task has it."""
    found = [full for full in known if full == name or full.partition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"parameters: {name!r} is one of {', '.join(found)}: give its section too")
    near = difflib.get_close_matches(name, [*known, *(full.partition("/")[2] for full in known)])
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
    raise ValueError(f"parameters: the base task has no parameter {name!r}; {hint}")


def _parameter(name: str, values: Any) -> Any:
    from clearml.automation import DiscreteParameterRange
    from clearml.automation.parameters import Parameter

    if isinstance(values, Parameter):
        values.name = name
        return values
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(
            f"parameters[{name!r}] must be a list of values or one of clearml.automation's ranges, "
            f"not {values!r}"
        )
    return DiscreteParameterRange(name, values=list(values))
