"""`ray job submit --working-dir . -- python jobs/evaluate.py ...` is the same as `crackvae evaluate ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
