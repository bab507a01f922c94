#!/usr/bin/env bash
# What the image consists of, in two steps, for the Dockerfile and for any clean Python 3.11:
#   bash docker/install.sh dependencies FOLDER   # a virtual environment with everything in requirements.txt
#   bash docker/install.sh package FOLDER        # vqgan_train itself, from this checkout
set -euo pipefail
cd "$(dirname "$0")/.."

step=${1:?dependencies or package}
folder=${2:?folder of the virtual environment}

dependencies() {
    "${PYTHON:-python3}" -m venv "$folder"
    # Every package is named, so pip has nothing to choose; it checks itself that nothing is missing.
    "$folder/bin/python" -m pip install --no-deps --only-binary :all: \
        --no-binary antlr4-python3-runtime -r docker/requirements.txt
    "$folder/bin/python" -m pip check
    # LPIPS' weights, so that no node has to fetch them. Its own wish for jax is not granted.
    "$folder/bin/python" -m pip install --no-deps --no-build-isolation --require-hashes -r docker/lpips.txt
}

package() {
    # --no-index: what the package needs is there, in versions it takes, or this fails.
    "$folder/bin/python" -m pip install --no-index --no-build-isolation '.[s3,gcs]'
}

case $step in
    dependencies | package) "$step" ;;
    *) echo "$0: no step $step; there are dependencies and package" >&2; exit 2 ;;
esac
