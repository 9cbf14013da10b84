#!/bin/sh
# Builds the sandbox image from the few files it needs: images/sandbox/build.sh [BASE] [IMAGE]
# BASE is any image with python3 3.11 and its venv module.
set -eu
cd "$(dirname "$0")/../.."
tar -cf - --exclude=__pycache__ images/sandbox/Dockerfile tasks/__init__.py tasks/shared/__init__.py tasks/shared/sandbox |
    docker build --network host --build-arg "BASE=${1:-python:3.11-slim-bookworm}" \
        -f images/sandbox/Dockerfile -t "${2:-tirflow-sandbox}" -
