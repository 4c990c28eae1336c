"""`python -m tracelet`: the command `tracelet`, where its script is not on the path."""

import sys

from tracelet.cli import main

sys.exit(main())
