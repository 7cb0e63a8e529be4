# build.sh RELEASE: builds the application as a package, uploads it to the index, and makes dist/shop-RELEASE.tar.gz, which lists
# all packages with their hashes. The release is also the version of the package: 1.0, or 42.
set -eu
index=${PYPI:-http://127.0.0.1:8081}
# The same content gives the same digest, whenever it is packed.
export SOURCE_DATE_EPOCH=946684800
rm -rf dist/wheel dist/release
mkdir -p dist/wheel dist/release
echo "$1" >VERSION
python3 -m pip wheel --quiet --no-deps --index-url "$index/simple/" --wheel-dir dist/wheel .
wheel=$(ls dist/wheel/*.whl)
hash=$(sha256sum "$wheel" | cut -d ' ' -f 1)
# A job that runs again has uploaded it before.
if ! curl --silent "$index/simple/shop/" | grep -q "$hash"; then
  curl --silent --show-error --fail --form :action=file_upload --form "content=@$wheel" "$index/"
fi
cp requirements.txt dist/release/
echo "shop==$1 --hash=sha256:$hash" >>dist/release/requirements.txt
tar -C dist/release --sort=name --mtime=@0 --owner=0 --group=0 --mode=u=rwX,go=rX -czf "dist/shop-$1.tar.gz" .
