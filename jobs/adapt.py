"""`ray job submit --working-dir . -- python jobs/adapt.py ...` is the same as `crackvae adapt ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["adapt", *sys.argv[1:]]))
