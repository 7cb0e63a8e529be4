# build.sh RELEASE: makes dist/shop-RELEASE.tar.zst of what .pawlignore leaves in, with the packages of Composer, and the release in VERSION.
# Composer removes the packages that only development needs: run it in a checkout of its own, as CI has it.
set -eu
mkdir -p dist
composer install --quiet --no-dev --no-interaction --classmap-authoritative
runner pack . --version "$1" --render VERSION --out "dist/shop-{version}.tar.zst"
