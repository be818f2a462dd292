"""`ray job submit --working-dir . -- python jobs/change.py ...` is the same as `crackvae change ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["change", *sys.argv[1:]]))
