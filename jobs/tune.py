"""`ray job submit --working-dir . -- python jobs/tune.py ...`: the same arguments as `dynfusion tune`."""

import sys

from dynfusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
