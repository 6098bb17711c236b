"""`ray job submit --working-dir . -- python jobs/pack.py ...`: the same arguments as `dynfusion pack`."""

import sys

from dynfusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
