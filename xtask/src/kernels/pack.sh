#!/bin/sh
# pack.sh PACKAGE DIR INIT: brings a Debian kernel package and makes of it DIR/vmlinuz and DIR/initrd.
#
# Nothing is installed. The package is downloaded once; DIR is made anew each time.
set -eu
package=$1 dir=$2 init=$3

mkdir -p "$dir"
cd "$dir"
if ! ls "$package"_*.deb >/dev/null 2>&1; then
    # As root, apt-get would use a user of its own, who may not write here.
    apt-get -qq -o APT::Sandbox::User=root download "$package"
fi
rm -rf tree root vmlinuz initrd

# The kernel, and the modules that the guest needs to start, to reach this machine's files, and to be
# tested: all of the network's, because tests set up packet filters.
mkdir tree root
if ! dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x -C tree --wildcards './boot/vmlinuz-*' \
    './lib/modules/*/modules.builtin*' './lib/modules/*/modules.order' \
    './lib/modules/*/kernel/fs/9p' './lib/modules/*/kernel/fs/netfs' './lib/modules/*/kernel/fs/fscache' \
    './lib/modules/*/kernel/fs/overlayfs' './lib/modules/*/kernel/drivers/virtio' \
    './lib/modules/*/kernel/drivers/net/veth*' './lib/modules/*/kernel/drivers/net/dummy*' \
    './lib/modules/*/kernel/lib' './lib/modules/*/kernel/crypto' \
    './lib/modules/*/kernel/net' 2>missing; then
    # What one kernel has as a module is built into another.
    ! grep -v 'Not found in archive\|previous errors' missing >&2
fi
if ! ls tree/boot/vmlinuz-* >/dev/null 2>&1; then
    # A package that only depends on the newest kernel of its kind.
    echo "$package holds no kernel; name the package that does:" \
        "$(apt-cache depends "$package" | awk '/Depends: linux-image/ { print $2; exit }')" >&2
    exit 1
fi
mv tree/boot/vmlinuz-* vmlinuz
find tree/lib -name '*.xz' -exec xz -d {} +
find tree/lib -name '*.zst' -exec zstd -q --rm -d {} +

mkdir root/bin root/proc root/sys root/dev root/host root/changes root/root
mv tree/lib root/lib
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
    echo "busybox needs shared libraries, which the guest has not: install busybox-static" >&2
    exit 1
fi
cp "$(command -v busybox)" root/bin/busybox
cp "$init" root/init
chmod +x root/init
(cd root && find . | cpio --quiet -o -H newc) >initrd
rm -rf tree root missing
