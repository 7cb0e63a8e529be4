# deploy|check RELEASE HOST…: bash over one ssh connection a host, which its commands share.
work=$1 release=$2
shift 2
on_host() {
  host=$1
  s="ssh -F ssh_config -o ControlMaster=auto -o ControlPersist=60 -o ControlPath=control-$host $host"
  if [ "$work" = deploy ]; then
    $s "mkdir -p /srv/floor/releases/$release && tar -xz -C /srv/floor/releases/$release" <"dist/shop-$release.tar.gz" &&
      $s "ln -s releases/$release /srv/floor/next && mv -T /srv/floor/next /srv/floor/current"
  else
    $s "test -d /srv/floor/releases/$release" && $s "test \"\$(readlink /srv/floor/current)\" = releases/$release"
  fi && [ "$($s cat /srv/floor/current/VERSION)" = "$release" ]
  result=$?
  ssh -F ssh_config -o ControlPath="control-$host" -O exit "$host" 2>/dev/null
  return $result
}
started=
for host; do
  on_host "$host" &
  started="$started $!"
done
for child in $started; do wait "$child" || exit 1; done
