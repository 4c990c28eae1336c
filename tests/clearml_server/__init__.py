"""A loopback ClearML server for the tests: real HTTP, real schemas, failures on demand.

>>> with ClearMLServer() as server:
...     subprocess.run([sys.executable, "train.py"], env={**os.environ, **server.environment()})
...     assert server.scalars(next(iter(server.tasks)))

Written after API server 2.0.0, and after what it was seen to answer to the unmodified SDK.
"""

from .faults import Fault, FaultMode, FaultPlan
from .server import ClearMLServer, RequestRecord, SchemaViolation

__all__ = [
    "ClearMLServer",
    "Fault",
    "FaultMode",
    "FaultPlan",
    "RequestRecord",
    "SchemaViolation",
]
