"""`python -m cosmos_launch.cli` is the `cosmos-train` command, for processes that start it again."""

import sys

from cosmos_launch.cli.main import main

sys.exit(main())
