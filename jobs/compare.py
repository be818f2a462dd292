"""`ray job submit --working-dir . -- python jobs/compare.py ...` is the same as `crackvae compare ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
