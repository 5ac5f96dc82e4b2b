#!/bin/sh
# pack.sh DEB DIR: makes DIR/vmlinuz and DIR/modules.cpio of a Debian kernel package. Installs nothing.
set -eu
deb=$1 dir=$2

mkdir -p "$dir"
cd "$dir"
rm -rf tree vmlinuz modules.cpio

# The kernel, and the modules that a guest needs to start, to reach this machine's files, and to be tested: all of the
# network's, because tests set up packet filters and IPVS.
mkdir -p tree/usr
if ! dpkg-deb --fsys-tarfile "$deb" | tar -x -C tree/usr --wildcards './boot/vmlinuz-*' \
    './lib/modules/*/modules.builtin*' './lib/modules/*/modules.order' \
    './lib/modules/*/kernel/fs/9p' './lib/modules/*/kernel/fs/netfs' './lib/modules/*/kernel/fs/fscache' \
    './lib/modules/*/kernel/fs/overlayfs' './lib/modules/*/kernel/drivers/virtio' \
    './lib/modules/*/kernel/drivers/block/virtio_blk*' \
    './lib/modules/*/kernel/drivers/net/veth*' './lib/modules/*/kernel/drivers/net/dummy*' \
    './lib/modules/*/kernel/lib' './lib/modules/*/kernel/crypto' \
    './lib/modules/*/kernel/net' 2>missing; then
    # What one kernel has as a module is built into another.
    ! grep -v 'Not found in archive\|previous errors' missing >&2
fi
if ! ls tree/usr/boot/vmlinuz-* >/dev/null 2>&1; then
    echo "$deb holds no kernel" >&2
    exit 1
fi
mv tree/usr/boot/vmlinuz-* vmlinuz
rmdir tree/usr/boot
find tree -name '*.xz' -exec xz -d {} +
find tree -name '*.zst' -exec zstd -q --rm -d {} +
for modules in tree/usr/lib/modules/*; do
    # busybox looks for lib/modules below the directory that it is told.
    busybox depmod -b "$PWD/tree/usr" "${modules##*/}"
done
(cd tree && find . | cpio --quiet -o -H newc) >modules.cpio
rm -rf tree missing
