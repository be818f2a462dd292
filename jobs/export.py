"""`ray job submit --working-dir . -- python jobs/export.py ...` is the same as `crackvae export ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
