#!/bin/busybox sh
# The first process of the guest: goes over to the host's own file system, seen through 9p and read-only,
# with a layer in memory over it that takes all changes, and runs tests.sh there.
/bin/busybox --install -s /bin
export PATH=/bin
give_up() {
    echo "guest: $*"
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
depmod -a
for module in virtio_pci 9pnet_virtio 9p overlay; do
    modprobe "$module" || give_up "the kernel package has no module $module"
done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || give_up "no host"
mount -t tmpfs -o size=60% changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work root /root || give_up "no root"

for directory in proc sys dev; do
    mount --move "/$directory" "/root/$directory"
done
mount -t tmpfs run /root/run
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t bpf bpf /root/sys/fs/bpf
# Modules that the kernel asks for later.
cp /bin/busybox /root/run/busybox
mkdir -p /root/lib/modules
cp -r /lib/modules/* /root/lib/modules/
printf '#!/bin/sh\nexec /run/busybox modprobe "$@"\n' >/root/run/modprobe
chmod +x /root/run/modprobe
echo /run/modprobe >/root/proc/sys/kernel/modprobe

tests=$(sed -n 's/.*balancer\.tests=\([^ ]*\).*/\1/p' /root/proc/cmdline)
exec switch_root /root /bin/sh -c "/bin/sh '$tests'; exec /run/busybox poweroff -f"
