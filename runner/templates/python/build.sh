#!/bin/sh
# Builds my-step.wasm from src/. The first build installs componentize-py into .venv.
set -eu
cd "$(dirname "$0")"
if [ ! -x .venv/bin/componentize-py ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement requirements.txt
fi
.venv/bin/componentize-py --wit-path wit --world step-module componentize --python-path src --output my-step.wasm main
echo my-step.wasm
