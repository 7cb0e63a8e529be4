# build.sh RELEASE: makes dist/shop-RELEASE.tar.zst of what .pawlignore leaves in, with the release in VERSION. What the application is
# built by, such as `npm ci && npm run build`, belongs before `runner pack`.
set -eu
mkdir -p dist
runner pack . --version "$1" --render VERSION --out "dist/shop-{version}.tar.zst"
