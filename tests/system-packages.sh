#!/bin/sh
# Installs the Debian packages that some tests need. Without root or apt it says so and leaves; those tests then
# skip by name.
set -u
wanted="bubblewrap iptables nftables strace iproute2 xfsprogs faketime"
missing=""
for package in $wanted; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, tests that need them will skip:$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -qq -y --no-install-recommends $missing; }
install >/dev/null 2>&1 || { apt-get update -qq && install; } >/dev/null 2>&1 || echo "could not install:$missing" >&2
exit 0
