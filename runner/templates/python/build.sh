#!/bin/sh
# Makes my-step.wasm of src/; the first time it installs componentize-py into .venv.
set -eu
cd "$(dirname "$0")"
if [ ! -x .venv/bin/componentize-py ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement requirements.txt
fi
.venv/bin/componentize-py --wit-path wit --world step-module componentize --python-path src --output my-step.wasm main
echo my-step.wasm
