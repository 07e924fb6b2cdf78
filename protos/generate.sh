#!/usr/bin/env bash
# Regenerates the committed Python code from protos/. Run by `make protos`.
# A proto at protos/lepton/** becomes sdk/lepton/**, one at protos/lepton_mesh/** becomes
# services/mesh/lepton_mesh/**, one at protos/lepton_gateway/** becomes gateway/lepton_gateway/**:
# the import path is the proto's path.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/${VENV:-.venv}/bin:$PATH"

# Generated aside, so that a proto that does not compile changes nothing.
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir "$out/sdk" "$out/mesh" "$out/gateway"

mapfile -t public < <(find protos/lepton -name '*.proto' | sort)
python -m grpc_tools.protoc -Iprotos -Iprotos/third_party/googleapis --python_out="$out/sdk" \
  --pyi_out="$out/sdk" --grpc_python_out="$out/sdk" --mypy_grpc_out="quiet:$out/sdk" "${public[@]}"
find "$out/sdk/lepton" -mindepth 1 -type d -exec touch {}/__init__.py \;

# Messages only: the mesh's etcd client calls etcd's own method paths.
mapfile -t private < <(find protos/lepton_mesh -name '*.proto' | sort)
python -m grpc_tools.protoc -Iprotos --python_out="$out/mesh" --pyi_out="$out/mesh" "${private[@]}"

# Messages only: the part of Envoy's external authorization that the gateway answers.
mapfile -t edge < <(find protos/lepton_gateway -name '*.proto' | sort)
python -m grpc_tools.protoc -Iprotos --python_out="$out/gateway" --pyi_out="$out/gateway" "${edge[@]}"

generated=(-name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' -o -name '*_pb2_grpc.pyi')
copy() { # from, to: replaces what was generated before, drops what no proto makes any more
  (cd "$1" && find . -type f) | while read -r file; do
    mkdir -p "$2/$(dirname "$file")"
    cmp -s "$1/$file" "$2/$file" || cp "$1/$file" "$2/$file"
  done
  (cd "$2" && find . \( "${generated[@]}" \)) | while read -r file; do
    [ -e "$1/$file" ] || rm "$2/$file"
  done
}
copy "$out/sdk" sdk
copy "$out/mesh" services/mesh
copy "$out/gateway" gateway
