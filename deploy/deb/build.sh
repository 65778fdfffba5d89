#!/bin/bash
# Builds dist/seismic-monitor_VERSION_ARCH.deb: the program and all that it needs as wheels, so that installing it takes
# neither a network nor a compiler. For another architecture: ARCH=arm64 deploy/deb/build.sh. WHEELS=DIR takes what
# deploy/wheels.sh left there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
top=$(cd "$here/../.." && pwd)
arch=${ARCH:-$(dpkg --print-architecture)}
out=${OUT:-$top/dist}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
root=$work/root
share=$root/usr/share/seismic-monitor
doc=$root/usr/share/doc/seismic-monitor
install -d "$share/wheels" "$share/systemd" "$root/DEBIAN" "$root/usr/sbin" "$root/usr/share/man/man8" "$doc" \
    "$root/lib/systemd/system"

if [ -n "${WHEELS-}" ]; then
    install -m 0644 "$WHEELS"/*.whl "$WHEELS/requirements.lock" "$share/wheels"
else
    ARCH=$arch "$here/../wheels.sh" "$share/wheels"
    chmod 0644 "$share"/wheels/*
fi
wheel=("$share"/wheels/seismic_monitor-*.whl)
version=$(basename "${wheel[0]}" | cut -d- -f2)

install -m 0755 "$here/../install.sh" "$share/install.sh"
install -m 0644 "$top"/systemd/monitor.service "$top"/systemd/monitor@.service "$top"/systemd/*.conf "$share/systemd"
install -m 0644 "$top"/systemd/monitor.service "$top"/systemd/monitor@.service "$root/lib/systemd/system"
install -m 0755 "$here/monitor-setup" "$root/usr/sbin/monitor-setup"
gzip -9n <"$here/monitor-setup.8" >"$root/usr/share/man/man8/monitor-setup.8.gz"
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: '
    sed -n 's/^Copyright (c) //p' "$top/LICENSE"
    printf 'License: MIT\n'
    sed -e '1,/^Copyright/d' -e 's/^$/./' -e 's/^/ /' "$top/LICENSE" | sed '1{/^ \.$/d}'
} >"$doc/copyright"
# The date of what was built, not of the building: the same source gives the same package.
date=$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || stat -c %Y "$top/CHANGELOG.md")}")
printf 'seismic-monitor (%s) stable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' "$version" \
    "$(sed -n 's/^Maintainer: //p' "$here/control")" "$date" | gzip -9n >"$doc/changelog.gz"
gzip -9n <"$top/CHANGELOG.md" >"$doc/CHANGELOG.md.gz"
for page in "$top"/docs/*.md; do
    install -m 0644 "$page" "$doc"
done
install -D -m 0644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/seismic-monitor"
install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" \
    "$here/control" >"$root/DEBIAN/control"

install -d "$out"
# Wheels are compressed already: gzip costs a Pi less than xz.
dpkg-deb --root-owner-group -Zgzip -z1 --build "$root" "$out/seismic-monitor_${version}_$arch.deb"
