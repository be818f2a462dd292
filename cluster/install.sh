#!/bin/sh
# The installation step of the Dockerfile, as a script of its own so that CI can run it:  cluster/install.sh [PYTHON]
# TORCH is installed first; all other packages have the versions of constraints.txt.
set -eu
cd "$(dirname "$0")/.."
python="${1:-python}"
pip="$python -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore -c constraints.txt"
# Not quoted, because both may consist of several words.
# shellcheck disable=SC2086
$pip ${TORCH:-torch==2.13.0}
$pip .
"$python" -m pip check
