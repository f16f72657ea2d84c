#!/bin/bash
# PID 1 of one host of the cluster: makes its root file system, enters it and stays as a reaper.
# Runs in fresh mount, PID, UTS, IPC and network namespaces.
# usage: host-init.sh NAME LOWER DIRECTORY HOME [CGROUP_CONTROLLER...]
set -eu
name=$1 lower=$2 directory=$3 home=$4
shift 4

hostname "$name"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"
cd "$directory/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --bind "$home" home # stands in for NFS: the same files on every host

mount -t tmpfs -o mode=755 tmpfs dev
device() { mknod -m 666 "dev/$1" c "$2" "$3"; }
device null 1 3
device zero 1 5
device full 1 7
device random 1 8
device urandom 1 9
device tty 5 0
device fuse 10 229  # squashfuse mounts SIF and SquashFS images as the user
device fakegpu0 1 3 # GRES needs device files
device fakegpu1 1 3
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

if [ $# -gt 0 ]; then
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  for controller in "$@"; do
    mkdir "sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
  done
fi

mkdir -p run/sshd run/mysqld .old
pivot_root . .old
# shellcheck disable=SC2093 # nothing comes after: exec replaces this shell
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c '
set -eu
umount -l /.old
install -d -o munge -g munge -m 755 /run/munge
: > /run/testbed-ready
exec catatonit -P'
