"""`ray job submit --working-dir . -- python jobs/calibrate.py ...` is the same as `crackvae calibrate ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
