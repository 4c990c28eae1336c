"""`python -m tracelet`: the command `tracelet`, where its script is not on the path."""

import sys

# Python has put the working folder first, and what lies there is no part of this command: a
# ./clearml of somebody else's would run in the place of the SDK.
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

from tracelet.cli import main

sys.exit(main())
