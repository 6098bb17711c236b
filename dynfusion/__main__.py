"""`python -m dynfusion` is `dynfusion`."""

import sys

from dynfusion.cli import main

sys.exit(main())
