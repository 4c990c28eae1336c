"""TensorBoard's files: those of the SummaryWriters, and what the handle logs beside them."""

from tracelet.backends.tensorboard.event_files import TensorBoardSink

__all__ = ["TensorBoardSink"]
