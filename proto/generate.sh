#!/bin/sh
# Writes the Python code of proto/gpusnap/v1 into the folder given (default: proto itself).
set -eu
cd "$(dirname "$0")"
out="${1:-.}"
python="${PYTHON:-python3}"
PATH="$(dirname "$python"):$PATH"
"$python" -m grpc_tools.protoc -I. --python_out="$out" --mypy_out="$out" gpusnap/v1/manifest.proto gpusnap/v1/snapshot_agent.proto
"$python" -m grpc_tools.protoc -I. --grpc_python_out="$out" --mypy_grpc_out="$out" gpusnap/v1/snapshot_agent.proto
