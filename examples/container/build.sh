# build.sh RELEASE: builds the image of the Dockerfile here, pushes it, and writes its name with the digest to dist/shop-RELEASE.image.
# ENGINE is podman, or what behaves like it; REGISTRY is where it pushes to.
set -eu
engine=${ENGINE:-podman}
registry=${REGISTRY:-registry.example.com}
mkdir -p dist
$engine build --quiet --tag "shop:$1" --build-arg "RELEASE=$1" --label "org.opencontainers.image.version=$1" .
$engine push --quiet --digestfile dist/digest "shop:$1" "docker://$registry/shop:$1"
echo "$registry/shop@$(cat dist/digest)" >"dist/shop-$1.image"
