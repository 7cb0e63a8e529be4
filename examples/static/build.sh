# build.sh RELEASE: makes dist/shop-RELEASE.tar.zst of the folder `site`. Build the site here first, if it is built.
set -eu
mkdir -p dist
echo "$1" >site/VERSION
runner pack site --version "$1" --out "dist/shop-{version}.tar.zst"
