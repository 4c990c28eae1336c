"""What was logged, read back from TensorBoard event files: `tracelet.read`."""

from tracelet.reading.logs import Logs, RunLogs, read, read_files
from tracelet.reading.series import Histograms, Scalars, Texts

__all__ = ["Histograms", "Logs", "RunLogs", "Scalars", "Texts", "read", "read_files"]
