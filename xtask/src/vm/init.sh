#!/usr/bin/busybox sh
# The first process of a guest. Runs /vm/core.sh on what the initial file system holds, then, if there is one, /vm/host.sh
# on this machine's own file system, seen through 9p and read-only, with a layer in memory over it that takes all changes.
# What they leave in /run/out goes to the disk as an archive. Lines that begin with "guest: " are read by xtask.
/usr/bin/busybox --install -s /usr/bin 2>/dev/null
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb
give_up() {
    echo "guest: gave up: $*"
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "guest: release $(uname -r)"
if grep -q balancer.probe /proc/cmdline; then
    poweroff -f
fi
mount -t tmpfs run /run
mkdir -p /run/out /dev/pts /dev/shm /tmp
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in virtio_pci virtio_blk; do
    modprobe "$module" || give_up "the kernel package has no module $module"
done
# Those that the kernel does not ask for by itself, at least not in time.
for module in inet_diag tcp_diag udp_diag veth; do modprobe "$module"; done
slowness=$(sed -n 's/.*balancer\.slowness=\([0-9]*\).*/\1/p' /proc/cmdline)
export BALANCER_TEST_SLOWNESS="${slowness:-1}"
ulimit -Hn 1048576
ulimit -Sn 65536
ip link set lo up
hostname guest

# Modules that the kernel asks for later, also when another root has been entered.
cp -r /vm /run/vm
cp /usr/bin/busybox /run/busybox
printf '#!/run/busybox sh\nexec /run/busybox modprobe "$@"\n' >/run/modprobe
printf '%s\n' '#!/run/busybox sh' \
    '/run/busybox tar -cf /dev/vda -C /run/out . && echo "guest: done"' \
    'exec /run/busybox poweroff -f' >/run/end
chmod +x /run/modprobe /run/end
echo /run/modprobe >/proc/sys/kernel/modprobe

if [ -e /run/vm/core.sh ]; then
    sh /run/vm/core.sh </dev/null
fi
if [ ! -e /run/vm/host.sh ]; then
    exec /run/end
fi

for module in 9pnet_virtio 9p overlay; do
    if ! modprobe "$module"; then
        echo "guest: no host: the kernel package has no module $module"
        exec /run/end
    fi
done
mkdir /host /changes /newroot
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || give_up "no host"
mount -t tmpfs -o size=60% changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work root /newroot || give_up "no root"
for directory in proc sys dev run; do
    mount --move "/$directory" "/newroot/$directory"
done
mkdir -p /newroot/lib/modules
cp -r /usr/lib/modules/* /newroot/lib/modules/
exec switch_root /newroot /run/busybox sh -c '/bin/sh /run/vm/host.sh </dev/null; exec /run/end'
