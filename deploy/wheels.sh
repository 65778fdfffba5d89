#!/bin/bash
# Fills a folder with the program and all that it needs as wheels, for stations without a network:
#
#   deploy/wheels.sh DIR        here
#   install.sh --wheels DIR     there
#
# For another architecture: ARCH=arm64; for one release only: PYTHON_VERSIONS=3.11. PYTHON names the one with pip.
set -euo pipefail

[ $# = 1 ] || {
    echo "usage: [ARCH=amd64|arm64] [PYTHON_VERSIONS='3.11 3.13'] wheels.sh DIR" >&2
    exit 2
}
top=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=$1
# Debian 12 and Raspberry Pi OS bookworm have 3.11, Debian 13 has 3.13.
versions=${PYTHON_VERSIONS:-3.11 3.13}
arch=${ARCH:-$(dpkg --print-architecture)}
case $arch in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*)
    echo "wheels.sh: ARCH=$arch; accepted: amd64 and arm64" >&2
    exit 2
    ;;
esac
pip=("${PYTHON:-python3}" -m pip --disable-pip-version-check)

install -d "$to"
rm -f "$to"/*.whl
# Every glibc up to Debian 12's.
platforms=(--platform "manylinux2014_$machine")
for minor in $(seq 17 36); do
    platforms+=(--platform "manylinux_2_${minor}_$machine")
done
for version in $versions; do
    "${pip[@]}" download --quiet --only-binary=:all: --require-hashes --no-deps \
        --python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" \
        --requirement "$top/requirements-edge.lock" --dest "$to"
done
# What it is built with is locked like what it runs with, and need not be fetched where it is there.
build=("${pip[@]}")
if ! "${PYTHON:-python3}" -c 'import editables, hatchling.build' 2>/dev/null; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "${PYTHON:-python3}" -m venv "$scratch"
    build=("$scratch/bin/python" -m pip --disable-pip-version-check)
    "${build[@]}" install --quiet --only-binary=:all: --require-hashes --requirement "$top/requirements-build.lock"
fi
"${build[@]}" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$to" "$top"
cp "$top/requirements-edge.lock" "$to/requirements.lock"
