#!/bin/sh
# What the Dockerfile installs, as a plain script, so that CI runs it too:  cluster/install.sh [PYTHON]
# TORCH is taken first and exactly; everything else has the version of constraints.txt.
set -eu
cd "$(dirname "$0")/.."
python="${1:-python}"
pip="$python -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action ignore -c constraints.txt"
# Not quoted: both may hold several words.
# shellcheck disable=SC2086
$pip ${TORCH:-torch==2.13.0}
$pip .
"$python" -m pip check
