#!/usr/bin/env bash
# Two NFSv4.1 clients and a server, each with a Linux kernel of its own, under QEMU's emulation: no KVM and no NFS in
# this machine's kernel are needed. docs/nfs.md says what for.
#
#   scripts/nfs_rig.sh build          once: a Debian kernel and a small root file system, under $RIG
#   scripts/nfs_rig.sh run 'COMMAND'  on both clients at the same time; PEER is 0 on one, 1 on the other
#
# A command sees this machine's files, read-only, so that a checkout and its environment can be used as they are. It may
# write to /mnt, the server's export, mounted as AWS mounts EFS, and to /tmp, which is its own. It needs root, debootstrap,
# qemu-system-x86 and, for build, a Debian mirror. Emulation is 10 to 30 times slower than the machine.
set -euo pipefail

RIG=${RIG:-/var/tmp/nfs-rig}
MEMORY_MB=${MEMORY_MB:-3072}
SPACE=nfs-rig # the network namespace, with a bridge on which the three are alone
NET=10.99.0

build() {
    mkdir -p "$RIG" && cd "$RIG"
    local root=${ROOT:-$RIG/root} version
    [ -d "$root/boot" ] || debootstrap --variant=minbase bookworm "$root" --include=\
nfs-common,nfs-kernel-server,iproute2,kmod,initramfs-tools,linux-image-amd64,busybox,e2fsprogs
    mkdir -p "$root/host" "$root/export"
    init > "$root/init-rig" && chmod 755 "$root/init-rig"
    version=$(ls "$root/lib/modules" | tail -1)
    printf 'MODULES=list\nBUSYBOX=y\nCOMPRESS=gzip\n' > "$root/etc/initramfs-tools/conf.d/rig"
    printf '%s\n' virtio_pci virtio_blk virtio_net ext4 crc32c_generic > "$root/etc/initramfs-tools/modules"
    [ -e initrd ] || { chroot "$root" mkinitramfs -o /initrd-rig "$version" && mv "$root/initrd-rig" initrd; }
    cp "$root/boot/vmlinuz-$version" vmlinuz
    rm -f root.img && truncate -s 3G root.img && mkfs.ext4 -q -O ^has_journal -d "$root" root.img
}

init() { # the first process of a guest
    cat << 'INIT'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2> /dev/null
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
for word in $(cat /proc/cmdline); do case $word in rig_*) export "$word" ;; esac; done
modprobe virtio_net; ip link set lo up
n=0; until [ -e /sys/class/net/eth0 ] || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done
ip addr add "$rig_ip/24" dev eth0; ip link set eth0 up
mkdir -p /run/rpc_pipefs; mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
if [ -z "$rig_peer" ]; then
    mount -t ext4 /dev/vdb /export; chmod 1777 /export
    modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd; mkdir -p /var/lib/nfs/v4recovery
    echo 0 > /proc/sys/fs/leases-enable # EFS gives no delegations
    echo "/export *(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=0)" > /etc/exports; exportfs -ra
    rpc.mountd --no-nfs-version 3; echo 1048576 > /proc/fs/nfsd/max_block_size; rpc.nfsd --no-nfs-version 3 8
    echo "RIG: ready"; while :; do sleep 1000; done
fi
hostname "client-$rig_peer"; modprobe 9pnet_virtio; modprobe 9p; modprobe nfsv4
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
options=nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport
until mount -t nfs4 -o $options "$rig_server:/" /mnt; do sleep 1; done
cp "/host$rig_command" /run/command
mount -t proc proc /host/proc; mount --bind /dev /host/dev; mount -t tmpfs tmp /host/tmp; mount --bind /mnt /host/mnt
PEER=$rig_peer chroot /host /bin/bash -l < /run/command 2>&1
echo "RIG: exit $?"
sync; echo o > /proc/sysrq-trigger; sleep 60
INIT
}

guest() { # name, last number of its address, further kernel arguments, further arguments of QEMU
    local name=$1 number=$2 kernel=$3 && shift 3
    ip netns exec $SPACE sh -c "ip tuntap add tap$number mode tap && ip link set tap$number master br0 up"
    ip netns exec $SPACE qemu-system-x86_64 -name "$name" -accel tcg -cpu max -machine q35 -m "$MEMORY_MB" \
        -nodefaults -no-user-config -display none -serial "file:$RIG/$name.log" -no-reboot \
        -kernel "$RIG/vmlinuz" -initrd "$RIG/initrd" -append "root=/dev/vda rw init=/init-rig console=ttyS0 quiet \
mitigations=off no_timer_check net.ifnames=0 panic=1 rig_ip=$NET.$number rig_server=$NET.10 rig_command=$RIG/command $kernel" \
        -drive "file=$RIG/root.img,if=virtio,format=raw,snapshot=on,cache=unsafe" \
        -netdev "tap,id=n0,ifname=tap$number,script=no,downscript=no" -device "virtio-net-pci,netdev=n0,mac=52:54:00:99:00:$number" \
        -device virtio-rng-pci -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
        "$@" > "$RIG/$name.qemu.log" 2>&1 &
}

run() {
    [ -e "$RIG/root.img" ] || { echo "nothing is built in $RIG: scripts/nfs_rig.sh build" >&2 && exit 1; }
    printf '%s\n' "$1" > "$RIG/command"
    rm -f "$RIG"/*.log "$RIG/export.img" && truncate -s 4G "$RIG/export.img" && mkfs.ext4 -q "$RIG/export.img"
    ip netns add $SPACE
    trap 'kill $(jobs -p) 2> /dev/null || true; wait; ip netns del $SPACE' EXIT
    ip netns exec $SPACE sh -c 'ip link set lo up; ip link add br0 type bridge; ip link set br0 up'
    MEMORY_MB=1024 guest server 10 "" -drive "file=$RIG/export.img,if=virtio,format=raw,cache=unsafe"
    guest client-0 11 rig_peer=0 && local first=$!
    guest client-1 12 rig_peer=1 && local second=$!
    wait $first $second
    for name in client-0 client-1; do echo "== $name" && cat "$RIG/$name.log"; done
    [ "$(cat "$RIG"/client-*.log | grep -c '^RIG: exit 0')" = 2 ]
}

"${@:?build or run}"
