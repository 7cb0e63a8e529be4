# build.sh RELEASE: makes dist/shop-RELEASE.tar.gz of the folder `site`. Build the site here first, if it is built.
set -eu
mkdir -p dist
echo "$1" >site/VERSION
# The same content gives the same digest, whenever it is packed.
tar -C site --sort=name --mtime=@0 --owner=0 --group=0 --mode=u=rwX,go=rX -czf "dist/shop-$1.tar.gz" .
