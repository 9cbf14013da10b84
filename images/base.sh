#!/bin/sh
# Makes the base image for CPU builds where there is no registry to pull one from: Debian 12 with Python 3.11.
#   images/base.sh [IMAGE]        as root, with debootstrap; packages come from where this machine's apt gets them
set -eu
image=${1:-tirflow-base}
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
root=$(mktemp -d)
trap 'rm -rf -- "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,libgomp1,libnuma1 bookworm "$root" "$mirror" >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/etc/apt/sources.list*
tar --sort=name --numeric-owner -C "$root" -cf - . | docker import --change 'CMD ["/bin/sh"]' - "$image"
