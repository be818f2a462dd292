"""`ray job submit --working-dir . -- python jobs/demo.py ...` is the same as `crackvae demo ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
