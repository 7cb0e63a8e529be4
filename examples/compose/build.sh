# build.sh RELEASE: builds the image of the Dockerfile here, pushes it, and makes dist/shop-RELEASE.tar.zst: compose.yml with the digest
# of that image in the place of `image: shop`, and the list of all images, each of which needs a digest.
# ENGINE is podman, or what behaves like it; REGISTRY is where it pushes to.
set -eu
engine=${ENGINE:-podman}
registry=${REGISTRY:-registry.example.com}
rm -rf dist/release
mkdir -p dist/release
# Without a label of its own, podman takes a cached image that was built with another RELEASE.
$engine build --quiet --tag "shop:$1" --build-arg "RELEASE=$1" --label "org.opencontainers.image.version=$1" .
$engine push --quiet --digestfile dist/digest "shop:$1" "docker://$registry/shop:$1"
sed "s|image: shop\$|image: $registry/shop@$(cat dist/digest)|" compose.yml >dist/release/compose.yml
sed -n 's/^ *image: *//p' dist/release/compose.yml >dist/release/images.txt
echo "$1" >dist/release/VERSION
runner pack dist/release --version "$1" --out "dist/shop-{version}.tar.zst"
