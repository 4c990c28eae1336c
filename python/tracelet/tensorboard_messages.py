"""TensorBoard's protobuf messages, from whichever package has them."""

from __future__ import annotations

import importlib
from typing import Any


def messages(tensorboard_module: str, tensorboardx_name: str) -> Any:
    """The messages of TensorBoard, or else tensorboardX' copy of them. Raises ImportError."""
    try:
        return importlib.import_module(tensorboard_module)
    except ImportError:
        return importlib.import_module(f"tensorboardX.proto.{tensorboardx_name}")


def compat(name: str) -> Any:
    """One of TensorBoard's own copies of TensorFlow's messages, "event_pb2" say."""
    return messages(f"tensorboard.compat.proto.{name}", name)


LOGGED_PARAMS = "tracelet: log_params"
"""The description of a value that shows parameters in TensorBoard; other backends have them by
their own way."""
PLOTLY_PLUGIN = "tracelet_plotly"
"""The plugin name of a value that is a figure in Plotly's JSON. TensorBoard does not show it; what
else its event holds is for TensorBoard, and stands for the same thing."""
