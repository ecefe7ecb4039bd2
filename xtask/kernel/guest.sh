#!/bin/bash
# Process 1 of the virtual machine: builds one workspace as root, as a user with a range of ids and a control group of its
# own, and as one with a single id. Says `CHECK NAME ok|failed`, and `DIGEST NAME SHA256` of the image `app`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root IMGFORGE_ENGINE=embedded
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 groups /sys/fs/cgroup
mount -o remount,rw /
ip link set lo up
modprobe overlay
dmesg -n 1
echo "KERNEL $(uname -r)"

check() { # NAME FOLDER COMMAND...
    local name=$1 folder=$2
    shift 2
    if "$@" > /tmp/log 2>&1; then echo "CHECK $name ok"; else echo "CHECK $name failed"; cat /tmp/log; fi
    sed -n "s/.*app:latest\"},\"digest\":\"\([^\"]*\)\".*/DIGEST $name \1/p" "$folder/.imgforge/store/index.json"
    echo
}

check root /ws env -C /ws imgforge build
dmesg | grep -i "overlayfs: unrecognized" && echo "CHECK quiet failed" || echo "CHECK quiet ok"

useradd -m ann
cp -r /ws /home/ann/ws
rm -rf /home/ann/ws/.imgforge
chown -R ann /home/ann
echo ann:100000:65536 | tee /etc/subuid > /etc/subgid
# As systemd gives a user one.
mkdir -p /sys/fs/cgroup/ann/leaf
chown -R ann /sys/fs/cgroup/ann
cat > /tmp/delegated << 'DELEGATED'
echo $$ > /sys/fs/cgroup/ann/leaf/cgroup.procs
exec su ann -c 'cd ~/ws && imgforge build'
DELEGATED
check range /home/ann/ws bash /tmp/delegated

echo > /etc/subuid
echo > /etc/subgid
rm -rf /home/ann/ws/.imgforge
check single /home/ann/ws su ann -c 'cd ~/ws && imgforge build app'

sync
echo o > /proc/sysrq-trigger
sleep 10
