#!/usr/bin/env bash
# Install the contents of the image in two steps, for the Dockerfile or any clean Python 3.11:
#   bash docker/install.sh dependencies FOLDER   # a virtual environment with everything in requirements.txt
#   bash docker/install.sh package FOLDER        # vqgan_train itself, from this checkout
set -euo pipefail
cd "$(dirname "$0")/.."

step=${1:?dependencies or package}
folder=${2:?folder of the virtual environment}

dependencies() {
    "${PYTHON:-python3}" -m venv "$folder"
    # requirements.txt lists every package, so --no-deps is enough; `pip check` finds missing ones.
    "$folder/bin/python" -m pip install --no-deps --only-binary :all: \
        --no-binary antlr4-python3-runtime -r docker/requirements.txt
    "$folder/bin/python" -m pip check
    # LPIPS' weights, so that no node has to download them. The package's dependency jax is not needed.
    "$folder/bin/python" -m pip install --no-deps --no-build-isolation --require-hashes -r docker/lpips.txt
}

package() {
    # --no-index: fails if an installed version does not meet the package's requirements.
    "$folder/bin/python" -m pip install --no-index --no-build-isolation '.[s3,gcs]'
}

case $step in
    dependencies | package) "$step" ;;
    *) echo "$0: unknown step $step; give dependencies or package" >&2; exit 2 ;;
esac
