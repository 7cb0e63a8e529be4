from pyinfra import host
from pyinfra.operations import files, server

release = host.data.release
folder = f"/srv/pyinfra/releases/{release}"
archive = f"/srv/pyinfra/shop-{release}.tar.gz"
files.directory(path=folder)
files.put(src=f"dist/shop-{release}.tar.gz", dest=archive)
server.shell(commands=[f"test -f {folder}/VERSION || tar -xzf {archive} -C {folder}"])
files.link(path="/srv/pyinfra/current", target=folder)
server.shell(commands=[f'test "$(cat /srv/pyinfra/current/VERSION)" = {release}'])
