import sys

from fabric import Config, ThreadingGroup

release, hosts = sys.argv[1], sys.argv[2:]
folder = f"/srv/fabric/releases/{release}"
config = Config(runtime_ssh_path="ssh_config")
with ThreadingGroup(*hosts, config=config) as group:
    group.run(f"mkdir -p {folder}", hide=True)
    shown = group.run(f"test -f {folder}/VERSION && echo there || true", hide=True)
    if not all("there" in result.stdout for result in shown.values()):
        group.put(f"dist/shop-{release}.tar.gz", "/srv/fabric/release.tar.gz")
        group.run(f"tar -xzf /srv/fabric/release.tar.gz -C {folder}", hide=True)
    group.run(f"ln -sfn {folder} /srv/fabric/next && mv -T /srv/fabric/next /srv/fabric/current", hide=True)
    group.run(f'test "$(cat /srv/fabric/current/VERSION)" = {release}', hide=True)
