"""`ray job submit --working-dir . -- python jobs/train.py ...`: the same arguments as `dynfusion train`."""

import sys

from dynfusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
