"""`ray job submit --working-dir . -- python jobs/nightly.py ...` is the same as `crackvae nightly ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["nightly", *sys.argv[1:]]))
