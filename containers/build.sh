#!/usr/bin/env bash
# Build the images ptychoflow/cpu and ptychoflow/cuda of this checkout, and say how large they became.
#
#   containers/build.sh [cpu|cuda|all] [--push]     all when nothing is named; --push also records digests in containers.lock.json
#
#   BASE_IMAGE       another base than the Dockerfile's: Debian with Python 3.11 to 3.13 as python3
#   IMAGE_PREFIX     first part of the names, with the registry for --push (default: ptychoflow)
#   BUILD_NETWORK    network of the build steps, e.g. host (default: the engine's own)
#   DOCKER           the engine's command (default: docker)
#   PIP_INDEX_URL, PIP_FIND_LINKS (an address), PIP_CERT (a file), http_proxy, https_proxy, no_proxy: as pip and apt know
#                    them, in the build stage only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

docker=${DOCKER:-docker}
prefix=${IMAGE_PREFIX:-ptychoflow}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' python/ptychoflow/__init__.py)
names=()
push=""

refuse() {
  printf 'build.sh: %s\n' "$2" >&2
  exit "$1"
}

# The same 16 digits as ptychoflow.provenance.code_revision, without a Python that could import the package.
code_revision() {
  (
    cd "$1"
    find . -type f -name '*.py' -printf '%P\n' | LC_ALL=C sort | while IFS= read -r name; do
      printf '%s\0' "$name"
      cat -- "$name"
      printf '\0'
    done
  ) | sha256sum | cut -c1-16
}

# Only what the Dockerfile copies: the checkout holds gigabytes that an engine would read otherwise.
make_context() {
  local name=$1 target=$2
  mkdir -p "$target/requirements" "$target/bin"
  cp "containers/$name/Dockerfile" "$target/"
  cp requirements/{uv,light,cuda}.lock "$target/requirements/"
  cp bin/ptychoflow "$target/bin/"
  tar -c --exclude=__pycache__ python/ptychoflow | tar -x -C "$target"
  if [[ -n ${PIP_CERT:-} ]]; then cp "$PIP_CERT" "$target/ca.crt"; fi
}

build() {
  local name=$1 image=$prefix/$1:$version began=$SECONDS variable arguments=()
  make_context "$name" "$scratch/$name"
  # Of the context, not of the checkout, where somebody may be editing.
  code_rev=$(code_revision "$scratch/$name/python/ptychoflow")
  arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "CODE_REV=$code_rev")
  for variable in BASE_IMAGE PIP_INDEX_URL PIP_FIND_LINKS http_proxy https_proxy no_proxy; do
    # A folder of wheels on this machine is not there in the build: serve it, and give its address.
    if [[ $variable == PIP_FIND_LINKS && ${PIP_FIND_LINKS:-} != *://* ]]; then continue; fi
    if [[ -n ${!variable:-} ]]; then arguments+=(--build-arg "$variable=${!variable}"); fi
  done
  if [[ -n ${PIP_CERT:-} ]]; then arguments+=(--build-arg PIP_CERT=/tmp/build/ca.crt); fi
  if [[ -n ${BUILD_NETWORK:-} ]]; then arguments+=(--network "$BUILD_NETWORK"); fi
  "$docker" build "${arguments[@]}" -t "$image" "$scratch/$name"
  printf 'build.sh: %s, code revision %s, %d MB, %d s\n' "$image" "$code_rev" \
    "$(($("$docker" image inspect -f '{{.Size}}' "$image") / 1000000))" "$((SECONDS - began))"
}

# Pushes an image and puts its digest into its line of the lock file.
publish() {
  local name=$1 image=$prefix/$1:$version digest
  "$docker" push "$image"
  digest=$("$docker" image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$image" |
    sed -n "s#^$prefix/$name@##p" | head -n 1)
  [[ $digest == sha256:* ]] || refuse 70 "$image was pushed, and the engine knows no digest of it"
  sed -i -E "/\"$name\": /s#\"image\": \"[^\"]*\", \"digest\": [^,]*, \"code_rev\": [^ }]*#\"image\": \"$image\", \"digest\": \"$digest\", \"code_rev\": \"$code_rev\"#" \
    containers/containers.lock.json
}

for argument in "$@"; do
  case $argument in
    cpu | cuda) names+=("$argument") ;;
    all) names+=(cpu cuda) ;;
    --push) push=yes ;;
    *) refuse 64 "expected cpu, cuda, all or --push, got '$argument'" ;;
  esac
done
if ((${#names[@]} == 0)); then names=(cpu cuda); fi
"$docker" info >/dev/null 2>&1 || refuse 69 "'$docker' reaches no engine: install and start one, or name its command in DOCKER"

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [[ -n $(git status --porcelain 2>/dev/null) ]]; then revision+=-modified; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for name in "${names[@]}"; do
  build "$name"
  if [[ -n $push ]]; then publish "$name"; fi
done
