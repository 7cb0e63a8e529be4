# build.sh RELEASE: makes dist/shop-RELEASE.tar.zst of what .pawlignore leaves in, with the release in VERSION, and Bundler's settings.
# Bundler then leaves out what only development needs: run it in a checkout of its own, as CI has it. `bundle lock` writes Gemfile.lock.
set -eu
mkdir -p .bundle dist
printf 'BUNDLE_FROZEN: "true"\nBUNDLE_WITHOUT: "development:test"\n' >.bundle/config
if grep -q '^source' Gemfile; then
  echo 'BUNDLE_PATH: "vendor/bundle"' >>.bundle/config
fi
runner pack . --version "$1" --render VERSION --out "dist/shop-{version}.tar.zst"
