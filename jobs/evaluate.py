"""`ray job submit --working-dir . -- python jobs/evaluate.py ...`: the same arguments as `dynfusion evaluate`."""

import sys

from dynfusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
