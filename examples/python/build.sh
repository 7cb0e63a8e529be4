# build.sh RELEASE: builds the application as a package, publishes it to the index, and makes dist/shop-RELEASE.tar.zst, which lists
# all packages with their hashes. The release is also the version of the package: 1.0, or 42.
set -eu
index=${PYPI:-http://127.0.0.1:8081}
# The same files give the same package, whenever it is built.
export SOURCE_DATE_EPOCH=946684800
rm -rf dist/wheel dist/release
mkdir -p dist/release
echo "$1" >VERSION
python3 -m pip wheel --quiet --no-deps --index-url "$index/simple/" --wheel-dir dist/wheel .
wheel=$(ls dist/wheel/*.whl)
runner publish "$wheel" "pypi+$index/"
cp requirements.txt dist/release/
echo "shop==$1 --hash=sha256:$(sha256sum "$wheel" | cut -d ' ' -f 1)" >>dist/release/requirements.txt
runner pack dist/release --version "$1" --out "dist/shop-{version}.tar.zst"
