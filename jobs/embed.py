"""`ray job submit --working-dir . -- python jobs/embed.py ...`: the same arguments as `dynfusion embed`."""

import sys

from dynfusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
