"""`ray job submit --working-dir . -- python jobs/partition.py ...` is the same as `crackvae partition ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["partition", *sys.argv[1:]]))
