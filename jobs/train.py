"""`ray job submit --working-dir . -- python jobs/train.py ...` is the same as `crackvae train ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
