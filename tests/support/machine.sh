#!/bin/sh
# Boots a machine for one test: the files of this one below an overlay, with processes, a network and a systemd of its own. What
# happens there ends with it. It needs root.
#
#   machine.sh boot FOLDER RUNNER TOOLS
#
# The control group is its own too, and its path is in FOLDER/group: systemd moves all processes of the group that it starts in.
set -eu
folder=$2
runner=$3
tools=$4
groups=/sys/fs/cgroup
type=cgroup2
line='^0::'
if ! [ -e "$groups/cgroup.controllers" ]; then
  groups=$groups/systemd
  type=cgroup
  line='^[0-9]*:name=systemd:'
fi
case $1 in
boot)
  group=$groups$(sed -n "s/$line//p" /proc/self/cgroup)/pawl-recipe-$$
  mkdir "$group"
  echo "$group" >"$folder/group"
  echo $$ >"$group/cgroup.procs"
  exec setpriv --pdeathsig KILL unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child \
    sh "$0" inside "$folder" "$runner" "$tools"
  ;;
inside)
  mount -t tmpfs tmpfs "$folder"
  root=$folder/root
  mkdir "$folder/upper" "$folder/work" "$root"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
  if [ "$type" = cgroup2 ]; then
    mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
  else
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
  fi
  touch "$root/usr/local/bin/runner"
  mount --bind "$runner" "$root/usr/local/bin/runner"
  # Their programs name their own place, which may be in the hidden /tmp.
  mkdir -p "$root$tools"
  mount --bind "$tools" "$root$tools"
  mount --make-rslave /
  # None of this machine's own services is started, and nothing that somebody installed by hand.
  rm -rf "$root"/etc/systemd/system/* "$root"/etc/supervisor/conf.d/*
  printf '[Unit]\nDescription=A machine for a recipe\n' >"$root/etc/systemd/system/recipe.target"
  ip link set lo up
  exec chroot "$root" env -i container=recipe PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=recipe.target --log-target=null --show-status=no
  ;;
esac
