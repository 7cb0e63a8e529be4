# build.sh RELEASE: builds app.jar, which knows its release, and makes dist/shop-RELEASE.tar.zst of it. With Maven or Gradle, its command
# takes the place of `javac` and `jar`: docs/init.md of Pawl says how.
set -eu
rm -rf build dist/release
mkdir -p build/classes dist/release
javac -d build/classes $(find src -name '*.java')
printf 'Implementation-Version: %s\n' "$1" >build/manifest
# With the time of the build in it, each jar would have another digest.
jar --create --file dist/release/app.jar --date 2000-01-01T00:00:00Z \
  --manifest build/manifest --main-class web.Server -C build/classes .
echo "$1" >dist/release/VERSION
runner pack dist/release --version "$1" --out "dist/shop-{version}.tar.zst"
