#!/bin/sh
# A machine for one test: the files of this one below an overlay, processes of its own, and a package manager that knows no package yet.
# What is installed there ends with it. It needs root.
#
#   package_machine.sh FOLDER TEST RUNNER
#
# TEST is the folder of the test, which the machine sees under the same path; its `repository` is the machine's only one.
set -eu
folder=$1
test=$2
runner=$3
mount -t tmpfs tmpfs "$folder"
root=$folder/root
mkdir "$folder/upper" "$folder/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for d in run tmp srv opt etc/apt var/lib/apt var/cache/apt var/lib/dpkg etc/dnf etc/yum.repos.d etc/rpm var/lib/dnf var/cache/dnf var/lib/rpm; do
  mkdir -p "$root/$d"
  mount -t tmpfs tmpfs "$root/$d"
done
chmod 1777 "$root/tmp"
mkdir -p "$root/etc/apt/apt.conf.d" "$root/etc/apt/preferences.d" "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
mkdir "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/triggers"
touch "$root/var/lib/dpkg/status" "$root/var/lib/dpkg/available" "$root/usr/local/bin/runner"
mkdir -p "$root/repository" "$root$test"
mount --bind "$runner" "$root/usr/local/bin/runner"
mount --bind "$test" "$root$test"
mount --bind "$test/repository" "$root/repository"
echo 'deb [trusted=yes] copy:/repository ./' >"$root/etc/apt/sources.list"
# As on Fedora; Debian's rpm has its database in the user's home.
echo '%_dbpath /var/lib/rpm' >"$root/etc/rpm/macros"
printf '[main]\ngpgcheck=0\nreposdir=/etc/yum.repos.d\nplugins=0\n' >"$root/etc/dnf/dnf.conf"
printf '[shop]\nname=shop\nbaseurl=file:///repository\nmetadata_expire=never\n' >"$root/etc/yum.repos.d/shop.repo"
# The first process reaps the others.
exec chroot "$root" sh -c 'echo booted; while :; do sleep 1 & wait $!; done'
