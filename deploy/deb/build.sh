#!/bin/bash
# Builds dist/seismic-monitor_VERSION_ARCH.deb: the program and all that it needs as wheels, so that installing it takes
# neither a network nor a compiler. For another architecture: ARCH=arm64 deploy/deb/build.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
arch=${ARCH:-$(dpkg --print-architecture)}
# Debian 12 and Raspberry Pi OS bookworm have 3.11, Debian 13 has 3.13.
versions=${PYTHON_VERSIONS:-3.11 3.13}
out=${OUT:-$top/dist}
case $arch in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*)
    echo "build.sh: ARCH=$arch; accepted: amd64 and arm64" >&2
    exit 2
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
share=$work/root/usr/share/seismic-monitor
install -d "$share/wheels" "$share/systemd" "$work/root/DEBIAN" "$work/root/usr/sbin" "$work/root/lib/systemd/system"

# Every glibc up to Debian 12's.
platforms=(--platform "manylinux2014_$machine")
for minor in $(seq 17 36); do
    platforms+=(--platform "manylinux_2_${minor}_$machine")
done
for version in $versions; do
    "$python" -m pip --disable-pip-version-check download --quiet --only-binary=:all: --require-hashes --no-deps \
        --python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" \
        --requirement "$top/requirements-edge.lock" --dest "$share/wheels"
done
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$share/wheels" "$top"
cp "$top/requirements-edge.lock" "$share/wheels/requirements.lock"
wheel=("$share"/wheels/seismic_monitor-*.whl)
version=$(basename "${wheel[0]}" | cut -d- -f2)

install -m 0755 "$here/../install.sh" "$share/install.sh"
install -m 0644 "$top"/systemd/monitor.service "$top"/systemd/monitor@.service "$top"/systemd/coral.conf "$share/systemd"
install -m 0644 "$top"/systemd/monitor.service "$top"/systemd/monitor@.service "$work/root/lib/systemd/system"
cat >"$work/root/usr/sbin/monitor-setup" <<'SETUP'
#!/bin/sh
exec /usr/share/seismic-monitor/install.sh --managed "$@"
SETUP
chmod 0755 "$work/root/usr/sbin/monitor-setup"
install -D -m 0644 "$top/LICENSE" "$work/root/usr/share/doc/seismic-monitor/copyright"
if [ -d "$top/docs" ]; then
    install -m 0644 "$top"/docs/*.md "$work/root/usr/share/doc/seismic-monitor"
fi
install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$work/root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du -sk "$work/root" | cut -f1)/" \
    "$here/control" >"$work/root/DEBIAN/control"

install -d "$out"
dpkg-deb --root-owner-group -Zxz -z1 --build "$work/root" "$out/seismic-monitor_${version}_$arch.deb"
